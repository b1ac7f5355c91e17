"use strict";
// Rank clips as utils/search/clip_search.py does: the same words, and the same sum in the same order.

const at = id => document.getElementById(id);

// --- the page's data: V words, C clips -----------------------------------------------------------------

const content = JSON.parse(at("content").textContent);
const { words, clips, captions, wordWeights, corrections } = content;
const rowOf = new Map(words.map((word, row) => [word, row]));
const correctionOf = new Map(Object.entries(corrections));
const table = unpacked(at("levels").textContent);  // (V, C)
at("levels").remove();  // a large text

/** Read the scores that utils/explore/packing.py packed: three digits of base 93 each. */
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

// --- a query's words, and each clip's score -------------------------------------------------------------

const htmlEntity = /&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});/g;
const decoder = document.createElement("textarea");  // not in the document, and given entities only

function decoded(entity) {
  decoder.innerHTML = entity;
  return decoder.value;
}

/** Clean a text as `clean_caption` in utils/dataset/captions.py does, correct its words and return them. */
function wordsOf(text) {
  const plain = text.replace(htmlEntity, decoded).replace(htmlEntity, decoded);  // some data sets escape twice
  const visible = plain.toLowerCase().replace(/[\p{Cf}\p{Variation_Selector}]/gu, "");
  const clean = visible.normalize("NFC").replace(/(?:[^\p{L}\p{M}\p{N}\p{Pd}]|^)\p{M}*/gu, " ");
  const split = text => text.split(/\s+/u).filter(word => word);
  return split(split(clean).map(word => correctionOf.get(word) ?? word).join(" "));
}

const byRow = terms => [...terms].sort((a, b) => a.row - b.row);

/** The distinct known words of a query, in its order, with their shares of the score: [{row, count, weight, share}]. */
function termsOf(tokens) {
  const counts = new Map();
  for (const row of tokens.filter(word => rowOf.has(word)).map(word => rowOf.get(word))) {
    counts.set(row, (counts.get(row) ?? 0) + 1);
  }
  const terms = [...counts].map(([row, count]) => ({ row, count, weight: count * (wordWeights ? wordWeights[row] : 1) }));
  const total = byRow(terms).reduce((sum, term) => sum + term.weight, 0);
  for (const term of terms) term.share = Math.fround(term.weight / total);
  return terms;
}

/** Score all clips and order them, the best first, ties in the split's order. */
function ranked(terms) {
  const scores = new Float32Array(clips.length);
  for (const { row, share } of byRow(terms)) {
    const first = row * clips.length;
    for (let clip = 0; clip < clips.length; clip++) scores[clip] += Math.fround(table[first + clip] * share);
  }
  const order = Array.from(scores.keys());
  return { scores, order: terms.length ? order.sort((a, b) => scores[b] - scores[a] || a - b) : order };
}

/** Edit distance: letters to change, add, drop or swap with their neighbour to turn one word into the other. */
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

const NEAREST = 4;  // suggestions for an unknown word

/** Find the known words nearest to an unknown one. A word that starts with it has distance 1. */
function nearest(unknown) {
  const limit = Math.max(1, Math.floor(unknown.length / 3)), near = [];
  for (const word of words) {
    const starts = word.startsWith(unknown);
    if (!starts && Math.abs(word.length - unknown.length) > limit) continue;
    const edits = starts ? 1 : distance(unknown, word);
    if (edits <= limit) near.push([edits, word]);
  }
  near.sort(([a, one], [b, other]) => a - b || one.length - other.length || (one < other ? -1 : 1));
  return near.slice(0, NEAREST).map(([, word]) => word);
}
