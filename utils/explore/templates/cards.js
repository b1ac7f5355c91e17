// Draw the hits, the query as it was read, and one clip's dialog.

const HITS = 20;  // shown at first, and added by "Show more"
const CLIP_WORDS = 12;  // shown in a clip's dialog

/** Make an element with attributes and children. A text child is never parsed as HTML. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const queryLink = (query, ...children) => make("a", { href: fragmentOf(query) }, ...children);
const counted = (number, what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;
const seconds = clip => `${clips[clip].seconds.toFixed(1)} s`;

/** Make a table row for a word: its name, a bar, its numbers. `length` and `mark` are shares of the bar's width.
 * At the clip level a score may be negative; its bar has another colour. */
function wordLine(name, length, numbers, mark) {
  const sign = length < 0 ? "less" : "whole", width = `width: ${100 * Math.min(1, Math.abs(length))}%`;
  const bar = make("span", { class: "bar" }, make("i", { class: sign, style: width }));
  if (mark !== undefined) bar.append(make("i", { class: "mark", style: `left: ${100 * Math.max(0, mark)}%` }));
  const cells = numbers.map(number => make("td", {}, number));
  return make("tr", {}, make("th", { scope: "row" }, name), make("td", { class: "track", "aria-hidden": "true" }, bar), ...cells);
}

const cards = new Map();  // by clip; reused, so that a playing sound goes on

function cardOf(clip) {
  if (!cards.has(clip)) {
    const { name, source, own } = clips[clip];
    const open = make("button", { class: "name", type: "button", "aria-haspopup": "dialog" }, name);
    open.addEventListener("click", () => openClip(clip));
    const rank = make("b"), score = make("p", { class: "soft" }), rows = make("tbody");
    const card = make("li", { class: "card hit" }, make("p", {}, rank, " ", open), score);
    if (own.length) card.append(make("p", { class: "what soft" }, captions[own[0]]));
    card.append(make("audio", { controls: "", preload: "none", src: source, "aria-label": name }));
    card.append(make("table", { class: "words", "aria-label": "Words, their scores and shares" }, rows));
    cards.set(clip, { card, rank, score, rows });
  }
  return cards.get(clip);
}

function showHits() {
  const { terms, scores, order } = result, hits = order.slice(0, shown);
  const addends = hits.map(clip => terms.map(({ row, share }) => share * table[row * clips.length + clip]));
  const longest = Math.max(...addends.flat().map(Math.abs), Number.MIN_VALUE);
  const sums = addends.map(of => of.reduce((sum, addend) => sum + Math.abs(addend), 0) || 1);
  hits.forEach((clip, i) => {
    const { card, rank, score, rows } = cardOf(clip);
    rank.textContent = i + 1;
    score.textContent = terms.length ? `score ${scores[clip].toFixed(4)} · ${seconds(clip)}` : seconds(clip);
    rows.replaceChildren(...terms.map(({ row, count }, k) => wordLine(
      count > 1 ? `${words[row]} ×${count}` : words[row],
      addends[i][k] / longest,
      [table[row * clips.length + clip].toFixed(3), `${Math.round(100 * addends[i][k] / sums[i])} %`],
    )));
    if (list.children[i] !== card) list.insertBefore(card, list.children[i] ?? null);
  });
  while (list.children.length > hits.length) list.lastChild.remove();
  at("more").hidden = hits.length === order.length;
}

/** Show the query as it was read: unknown words struck through, beside suggestions. */
function showRead(tokens) {
  const unknown = [...new Set(tokens)].filter(word => !rowOf.has(word));
  at("read").replaceChildren(...(unknown.length ? tokens : []).map(word => {
    if (rowOf.has(word)) return make("span", {}, word);
    const suggestions = nearest(word).flatMap((near, i) => [
      i ? ", " : " → ", queryLink(tokens.map(other => other === word ? near : other).join(" "), near),
    ]);
    return make("span", {}, make("s", { "aria-label": `unknown: ${word}` }, word), ...suggestions);
  }));
  const known = tokens.filter(word => rowOf.has(word)).length;
  const how = known ? `ranked by ${counted(known, "word")}` : "in the split's order";
  const spoken = unknown.length ? `; unknown: ${unknown.join(", ")}` : "";  // for screen readers
  at("count").replaceChildren(`${counted(clips.length, "clip")}, ${how}`, make("span", { class: "unseen" }, spoken));
}

let means;  // (V,) each word's mean score over the clips

function meansOf() {
  return means ??= words.map((_, row) => {
    let sum = 0;
    for (let i = row * clips.length; i < (row + 1) * clips.length; i++) sum += table[i];
    return sum / clips.length;
  });
}

function openClip(clip) {
  const { name, source, picture, best, own } = clips[clip], mean = meansOf();
  const score = row => table[row * clips.length + clip];
  at("clip-name").textContent = name;
  at("clip-sound").src = source;
  at("clip-sound").setAttribute("aria-label", name);
  at("clip-picture").src = picture;
  at("clip-picture").alt = `Log-mel of ${name}: ${seconds(clip)} from left to right, low to high frequencies upwards`;
  at("clip-seconds").textContent = seconds(clip);
  at("clip-time").hidden = true;
  const rows = [...words.keys()].sort((a, b) => score(b) - mean[b] - score(a) + mean[a] || a - b).slice(0, CLIP_WORDS);
  const top = Math.max(...rows.map(score), ...rows.map(row => mean[row]), Number.MIN_VALUE);
  at("clip-words").replaceChildren(...rows.map(row => wordLine(
    queryLink(words[row], words[row]), score(row) / top, [score(row).toFixed(3), `mean ${mean[row].toFixed(3)}`], mean[row] / top,
  )));
  at("clip-texts").hidden = !best.length;
  at("clip-captions").replaceChildren(...best.map(([caption, value]) => make(
    "li", {}, queryLink(captions[caption], captions[caption]), ` ${value.toFixed(4)} `,
    ...(own.includes(caption) ? [make("span", { class: "badge" }, "✓ its own")] : []),
  )));
  at("clip").showModal();
}
