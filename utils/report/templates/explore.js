"use strict";
// The page ranks clips as utils/search/clip_search.py does: the same words, the same sum in the same order.

const AT_ONCE = 20;  // hits shown, and added by "Show more"
const PAUSE = 500;  // ms without a key, after which a query becomes an entry of the browser's history
const NEAREST = 4, TELLING = 12;  // words offered for an unknown one; shown of a clip
const at = id => document.getElementById(id);

// --- what the page holds: V words, C clips -------------------------------------------------------------

const content = JSON.parse(at("content").textContent);
const { words, clips, captions, wordWeights, corrections } = content;
const rowOf = new Map(words.map((word, row) => [word, row]));
const correctionOf = new Map(Object.entries(corrections));
const table = unpacked(at("levels").textContent);  // (V, C)
at("levels").remove();  // its text is large

/** The scores that utils/explore/packing.py packed: three digits of base 93 each. */
function unpacked(text) {
  const scores = new Float32Array(words.length * clips.length);
  const digit = place => text.charCodeAt(place) - (text.charCodeAt(place) > 60 ? 34 : 33);
  for (let row = 0, i = 0; row < words.length; row++) {
    const low = content.low[row], step = content.step[row];
    for (let clip = 0; clip < clips.length; clip++, i++) {
      scores[i] = low + step * (93 * (93 * digit(3 * i) + digit(3 * i + 1)) + digit(3 * i + 2));
    }
  }
  return scores;
}

// --- a text's words, and the clips' scores with it -----------------------------------------------------

const htmlEntity = /&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});/g;
const decoder = document.createElement("textarea");  // outside of the page, and given entities alone

function decoded(entity) {
  decoder.innerHTML = entity;
  return decoder.value;
}

/** The words of a text, cleaned as `clean_caption` in utils/dataset/captions.py does, and corrected. */
function wordsOf(text) {
  const visible = text.replace(htmlEntity, decoded).toLowerCase().replace(/[\p{Cf}\p{Variation_Selector}]/gu, "");
  const clean = visible.normalize("NFC").replace(/(?:[^\p{L}\p{M}\p{N}\p{Pd}]|^)\p{M}*/gu, " ");
  const split = text => text.split(/\s+/u).filter(word => word);
  return split(split(clean).map(word => correctionOf.get(word) ?? word).join(" "));
}

const byRow = parts => [...parts].sort((a, b) => a.row - b.row);

/** What each distinct known word counts in the score of a text, in its order: [{row, count, share}]. */
function partsOf(tokens) {
  const counts = new Map();
  for (const word of tokens) {
    if (rowOf.has(word)) counts.set(rowOf.get(word), (counts.get(rowOf.get(word)) ?? 0) + 1);
  }
  const parts = [...counts].map(([row, count]) => ({ row, count, weight: count * (wordWeights ? wordWeights[row] : 1) }));
  const total = byRow(parts).reduce((sum, part) => sum + part.weight, 0);
  for (const part of parts) part.share = Math.fround(part.weight / total);
  return parts;
}

/** The clips by their score, ties in the split's order. */
function ranked(parts) {
  const scores = new Float32Array(clips.length);
  for (const { row, share } of byRow(parts)) {
    const first = row * clips.length;
    for (let clip = 0; clip < clips.length; clip++) scores[clip] += Math.fround(table[first + clip] * share);
  }
  const order = Array.from(scores.keys());
  return { scores, order: parts.length ? order.sort((a, b) => scores[b] - scores[a] || a - b) : order };
}

/** How many letters are to be changed, added, dropped or swapped with their neighbour, to make one word of another. */
function distance(one, other) {
  let before = [], above = [], row = Array.from({ length: other.length + 1 }, (_, j) => j);
  for (let i = 1; i <= one.length; i++) {
    [before, above, row] = [above, row, [i]];
    for (let j = 1; j <= other.length; j++) {
      row[j] = Math.min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (one[i - 1] !== other[j - 1]));
      if (i > 1 && j > 1 && one[i - 1] === other[j - 2] && one[i - 2] === other[j - 1]) {
        row[j] = Math.min(row[j], before[j - 2] + 1);
      }
    }
  }
  return row[other.length];
}

/** The known words nearest to an unknown one; words that it begins count as one letter away. */
function nearest(unknown) {
  const limit = Math.max(1, Math.floor(unknown.length / 3)), found = [];
  for (const word of words) {
    const begun = word.startsWith(unknown);
    if (!begun && Math.abs(word.length - unknown.length) > limit) continue;
    const away = begun ? 1 : distance(unknown, word);
    if (away <= limit) found.push([away, word]);
  }
  found.sort(([a, one], [b, other]) => a - b || one.length - other.length || (one < other ? -1 : 1));
  return found.slice(0, NEAREST).map(([, word]) => word);
}

// --- the page's parts ----------------------------------------------------------------------------------

/** An element with attributes and children; a text is never read as HTML. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const queryLink = (query, ...children) => make("a", { href: fragmentOf(query) }, ...children);
const counted = (number, what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;
const seconds = clip => `${clips[clip].seconds.toFixed(1)} s`;

/** A word's line: its name, a bar, its numbers; `mark` is a place on the bar. */
function wordLine(name, length, numbers, mark) {
  const bar = make("span", { class: "bar" }, make("i", { style: `width: ${100 * length}%` }));
  if (mark !== undefined) bar.append(make("i", { class: "mark", style: `left: ${100 * mark}%` }));
  const cells = numbers.map(number => make("td", {}, number));
  return make("tr", {}, make("th", { scope: "row" }, name), make("td", { class: "track", "aria-hidden": "true" }, bar), ...cells);
}

const cards = new Map();  // by clip, kept so that a sound that plays goes on

function cardOf(clip) {
  if (!cards.has(clip)) {
    const { name, source, own } = clips[clip];
    const open = make("button", { class: "name", type: "button", "aria-haspopup": "dialog" }, name);
    open.addEventListener("click", () => openClip(clip));
    const place = make("b"), score = make("p", { class: "soft" }), lines = make("tbody");
    const card = make("li", { class: "card hit" }, make("p", {}, place, " ", open), score);
    if (own.length) card.append(make("p", { class: "what soft" }, captions[own[0]]));
    card.append(make("audio", { controls: "", preload: "none", src: source, "aria-label": name }));
    card.append(make("table", { class: "words", "aria-label": "Words, their scores and shares" }, lines));
    cards.set(clip, { card, open, place, score, lines });
  }
  return cards.get(clip);
}

function showHits() {
  const { parts, scores, order } = found, hits = order.slice(0, shown);
  const adds = hits.map(clip => parts.map(({ row, share }) => share * table[row * clips.length + clip]));
  const longest = Math.max(...adds.flat(), Number.MIN_VALUE);
  hits.forEach((clip, i) => {
    const { card, place, score, lines } = cardOf(clip);
    place.textContent = i + 1;
    score.textContent = parts.length ? `score ${scores[clip].toFixed(4)} · ${seconds(clip)}` : seconds(clip);
    lines.replaceChildren(...parts.map(({ row, count }, k) => wordLine(
      count > 1 ? `${words[row]} ×${count}` : words[row],
      adds[i][k] / longest,
      [table[row * clips.length + clip].toFixed(3), `${Math.round(100 * adds[i][k] / (scores[clip] || 1))} %`],
    )));
    if (list.children[i] !== card) list.insertBefore(card, list.children[i] ?? null);
  });
  while (list.children.length > hits.length) list.lastChild.remove();
  at("more").hidden = hits.length === order.length;
}

/** The query as it is read: unknown words struck through, with the nearest known ones. */
function showRead(tokens) {
  const unknown = [...new Set(tokens)].filter(word => !rowOf.has(word));
  at("read").replaceChildren(...(unknown.length ? tokens : []).map(word => {
    if (rowOf.has(word)) return make("span", {}, word);
    const offered = nearest(word).flatMap((near, i) => [
      i ? ", " : " → ", queryLink(tokens.map(other => other === word ? near : other).join(" "), near),
    ]);
    return make("span", {}, make("s", { "aria-label": `unknown: ${word}` }, word), ...offered);
  }));
  const known = tokens.filter(word => rowOf.has(word)).length;
  const how = known ? `ranked by ${counted(known, "word")}` : "in the split's order";
  const heard = unknown.length ? `; unknown: ${unknown.join(", ")}` : "";  // seen in the line beside
  at("count").replaceChildren(`${counted(clips.length, "clip")}, ${how}`, make("span", { class: "unseen" }, heard));
}

// --- a clip by itself ----------------------------------------------------------------------------------

let means;  // (V,) of each word's scores over the clips

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
  const rows = [...words.keys()].sort((a, b) => score(b) - mean[b] - score(a) + mean[a] || a - b).slice(0, TELLING);
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

// --- what the reader does ------------------------------------------------------------------------------

const input = at("query"), list = at("hits");
let found, shown = AT_ONCE, pause, written;

function search() {
  const tokens = wordsOf(input.value), parts = partsOf(tokens);
  found = { parts, ...ranked(parts) };
  shown = AT_ONCE;
  showHits();
  showRead(tokens);
}

const fragmentOf = query => query ? `#${new URLSearchParams({ q: query })}` : "#";

/** Keep the query in the address, as an entry of the history. */
function keep() {
  clearTimeout(pause);
  if ((new URLSearchParams(location.hash.slice(1)).get("q") ?? "") !== input.value) location.hash = fragmentOf(input.value);
  written = location.hash;
}

/** Search for the address's query, at the start, after a link, or on the way back. */
function follow() {
  if (location.hash === written) return;
  written = location.hash;
  clearTimeout(pause);
  input.value = new URLSearchParams(location.hash.slice(1)).get("q") ?? "";
  at("clip").close();
  search();
  scrollTo(0, 0);
  input.focus();
}

/** Lead the focus from the query through the hits: to the one that many places on, if there is one. */
function step(from, by) {
  const hits = [...list.querySelectorAll("button.name")], place = hits.indexOf(from) + by;
  const next = place < 0 ? input : hits[place];
  next?.focus();
  next?.closest("li")?.scrollIntoView({ block: "nearest" });
}

input.addEventListener("input", () => {
  search();
  clearTimeout(pause);
  pause = setTimeout(keep, PAUSE);
});
input.addEventListener("change", keep);
document.querySelector("form").addEventListener("submit", event => {
  event.preventDefault();
  keep();
});
addEventListener("hashchange", follow);
at("more").addEventListener("click", () => {
  const first = shown;
  shown += AT_ONCE;
  showHits();
  list.children[first].querySelector("button").focus();
});
document.addEventListener("keydown", event => {
  const from = document.activeElement, inList = from.matches("#hits button.name");
  if (at("clip").open || !(inList || from === input)) return;
  if (event.key === "Escape" && inList) input.focus();
  else if (event.key === "ArrowDown" || (event.key === "ArrowRight" && inList)) step(from, 1);
  else if ((event.key === "ArrowUp" || event.key === "ArrowLeft") && inList) step(from, -1);
  else return;
  event.preventDefault();
});
document.addEventListener("play", event => {  // one sound at a time
  for (const player of document.querySelectorAll("audio")) if (player !== event.target) player.pause();
}, true);
at("clip").addEventListener("close", () => at("clip-sound").pause());
at("clip").addEventListener("click", event => {
  if (event.target === at("clip") || event.target.closest("a")) at("clip").close();  // beside it, or off to a query
});
at("clip-close").addEventListener("click", () => at("clip").close());
at("clip-sound").addEventListener("timeupdate", ({ target }) => {
  at("clip-time").hidden = false;
  at("clip-time").style.left = `${100 * target.currentTime / target.duration}%`;
});
follow();
