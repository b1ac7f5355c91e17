// React to what the reader types and clicks.

const PAUSE = 500;  // ms without a key, after which the query enters the browser's history
const input = at("query"), list = at("hits");
let result, shown = HITS, pause, written;

function search() {
  const tokens = wordsOf(input.value), terms = termsOf(tokens);
  result = { terms, ...ranked(terms) };
  shown = HITS;
  showHits();
  showRead(tokens);
}

const fragmentOf = query => query ? `#${new URLSearchParams({ q: query })}` : "#";

/** Write the query into the address, as an entry of the browser's history. */
function keep() {
  clearTimeout(pause);
  if ((new URLSearchParams(location.hash.slice(1)).get("q") ?? "") !== input.value) location.hash = fragmentOf(input.value);
  written = location.hash;
}

/** Search for the query in the address: at the start, after a link, or after going back. */
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

/** Move the focus by some hits, if there are any; before the first hit is the query. */
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
  shown += HITS;
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
  if (event.target === at("clip") || event.target.closest("a")) at("clip").close();  // a click beside the dialog, or on a query
});
at("clip-close").addEventListener("click", () => at("clip").close());
at("clip-sound").addEventListener("timeupdate", ({ target }) => {
  at("clip-time").hidden = false;
  at("clip-time").style.left = `${100 * target.currentTime / target.duration}%`;
});
follow();
