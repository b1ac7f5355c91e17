"""JavaScript that tests run in pages: the lowest contrast of their texts, and whether a player plays."""

CONTRAST = """() => {
  const parse = css => css.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = element => {
    for (; element; element = element.parentElement) {
      const colour = parse(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const texts = [...document.querySelectorAll("h1, h2, h3, p, a, th, td, dt, b, summary, caption, li, span")];
  return Math.min(...texts.map(element => {
    const [a, b] = [luminance(parse(getComputedStyle(element).color)), luminance(ground(element))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }));
}"""

PLAY = """async player => {
  player.muted = true;
  await player.play();
  const end = Date.now() + 5000;
  while (player.currentTime === 0 && Date.now() < end) await new Promise(done => setTimeout(done, 20));
  player.pause();
  return [player.currentTime, player.duration, player.error && player.error.message];
}"""
