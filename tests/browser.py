"""Pages in a browser: open one, measure the lowest contrast of its texts, and tell whether a player plays."""

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


def opened(browser, url, width=1280, colours="light"):
    """A new page at a URL, the URLs that it requests, and its error messages."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=colours)
    page, requests, complaints = context.new_page(), [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("requestfailed", lambda request: complaints.append(f"{request.url}: {request.failure}"))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.goto(url)
    return page, requests, complaints
