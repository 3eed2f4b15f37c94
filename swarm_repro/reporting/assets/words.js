// Which words of two texts differ: Myers' greedy algorithm on words, with a bound on its cost.
// Source: E. W. Myers, "An O(ND) Difference Algorithm and Its Variations", Algorithmica 1 (1986).

const WORDS = /\s+|[\p{L}\p{M}\p{N}_]+|./gsu;
const MOST_CHARACTERS = 400000; // of both texts; above, only the common ends are found
const MOST_EDITS = 1200;

// Returns [parts of a, parts of b]; a part is {text, same}.
function differingWords(a, b) {
  if (a === b) return [[{ text: a, same: true }], [{ text: b, same: true }]];
  const exact = a.length + b.length <= MOST_CHARACTERS;
  const left = exact ? a.match(WORDS) ?? [] : commonEnds(a, b);
  const right = exact ? b.match(WORDS) ?? [] : commonEnds(b, a);
  let start = 0;
  while (start < left.length && start < right.length && left[start] === right[start]) start++;
  let end = 0;
  while (
    end < left.length - start &&
    end < right.length - start &&
    left[left.length - 1 - end] === right[right.length - 1 - end]
  )
    end++;
  const sameLeft = new Uint8Array(left.length).fill(1, 0, start).fill(1, left.length - end);
  const sameRight = new Uint8Array(right.length).fill(1, 0, start).fill(1, right.length - end);
  const pairs = matches(left.slice(start, left.length - end), right.slice(start, right.length - end));
  for (const [x, y] of pairs) {
    sameLeft[start + x] = 1;
    sameRight[start + y] = 1;
  }
  // White space alone between differing words is no common ground: the words read as one piece.
  const alone = pairs.filter(
    ([x, y]) => !left[start + x].trim() && isAlone(sameLeft, start + x) && isAlone(sameRight, start + y),
  );
  for (const [x, y] of alone) {
    sameLeft[start + x] = 0;
    sameRight[start + y] = 0;
  }
  return [joined(left, sameLeft), joined(right, sameRight)];
}

// A long text as three pieces: common start, middle, common end.
function commonEnds(text, other) {
  const most = Math.min(text.length, other.length);
  let start = 0;
  while (start < most && text[start] === other[start]) start++;
  let end = 0;
  while (end < most - start && text[text.length - 1 - end] === other[other.length - 1 - end]) end++;
  return [text.slice(0, start), text.slice(start, text.length - end), text.slice(text.length - end)];
}

// Pairs of places with the same word; none where the texts have too little in common.
function matches(left, right) {
  const n = left.length;
  const m = right.length;
  if (!n || !m) return [];
  const bound = Math.min(n + m, MOST_EDITS);
  const furthest = new Int32Array(2 * bound + 3);
  const middle = bound + 1;
  const trace = [];
  for (let edits = 0; edits <= bound; edits++) {
    trace.push(furthest.slice(middle - edits - 1, middle + edits + 2));
    for (let k = -edits; k <= edits; k += 2) {
      const down = k === -edits || (k !== edits && furthest[middle + k - 1] < furthest[middle + k + 1]);
      let x = down ? furthest[middle + k + 1] : furthest[middle + k - 1] + 1;
      let y = x - k;
      while (x < n && y < m && left[x] === right[y]) {
        x++;
        y++;
      }
      furthest[middle + k] = x;
      if (x >= n && y >= m) return back(trace, edits, n, m);
    }
  }
  return [];
}

function back(trace, edits, n, m) {
  const pairs = [];
  let x = n;
  let y = m;
  for (let d = edits; d >= 0; d--) {
    const at = (k) => trace[d][k + d + 1];
    const k = x - y;
    const down = k === -d || (k !== d && at(k - 1) < at(k + 1));
    const beforeX = d === 0 ? 0 : at(down ? k + 1 : k - 1);
    const beforeY = d === 0 ? 0 : beforeX - (down ? k + 1 : k - 1);
    while (x > beforeX && y > beforeY) pairs.push([--x, --y]);
    x = beforeX;
    y = beforeY;
  }
  return pairs;
}

const isAlone = (same, place) => same[place - 1] === 0 && same[place + 1] === 0;

// Neighbours of one kind become one part.
function joined(words, same) {
  const parts = [];
  for (let place = 0; place < words.length; place++) {
    const isSame = same[place] === 1;
    const last = parts[parts.length - 1];
    if (last && last.same === isSame) last.text += words[place];
    else parts.push({ text: words[place], same: isSame });
  }
  return parts;
}

const LONG = 3000; // from this length on, long common stretches are folded
const KEPT = 300; // characters kept on both sides of a fold

function showParts(parts, mark) {
  const total = parts.reduce((sum, part) => sum + part.text.length, 0);
  const box = el("div", { class: "text", dir: "auto" });
  parts.forEach((part, place) => {
    if (!part.same) {
      const changed = el(mark === "a" ? "del" : "ins");
      putLong(changed, part.text);
      box.append(changed);
    } else if (parts.length === 1 || total < LONG || part.text.length < 3 * KEPT) {
      putLong(box, part.text);
    } else {
      const head = place === 0 ? "" : cut(part.text, KEPT);
      const rest = part.text.slice(head.length);
      const hidden = place === parts.length - 1 ? rest : cut(rest, rest.length - KEPT);
      put(box, head, true);
      box.append(more(`${number(hidden.length)} same characters`, (into) => putLong(into, hidden)));
      put(box, rest.slice(hidden.length), true);
    }
  });
  if (!total) box.append(el("span", { class: "muted" }, "(empty)"));
  return box;
}

// A field and its two values: in one line where they are short, else side by side.
function fieldChange(field, a, b, character, heads) {
  const isShort = [a, b].every((value) => value.length <= 60 && !value.includes("\n"));
  return el(
    "div",
    { class: "difference" },
    el(
      "p",
      {},
      el("code", {}, t(field)),
      isShort
        ? [": ", el("bdi", { class: "t change a-text" }, a || "(empty)"), ` in ${heads[0]}, `, el("bdi", { class: "t change b-text" }, b || "(empty)"), ` in ${heads[1]}`]
        : null,
      character === null ? null : el("span", { class: "muted" }, `${isShort ? ", " : " "}from character ${number(character)}`),
    ),
    isShort ? null : sideBySide(a, b, heads),
  );
}

// Two texts side by side, what differs marked; null stands for a text that is not there.
function sideBySide(a, b, heads, nothing = ["not there", "not there"]) {
  const [left, right] =
    a === null || b === null ? [[{ text: a ?? "", same: true }], [{ text: b ?? "", same: true }]] : differingWords(a, b);
  const column = (head, text, parts, mark, none) =>
    el(
      "div",
      { class: `side ${mark}-side` },
      el("h4", {}, head, a !== null && a === b ? el("span", { class: "muted" }, " (the same text)") : null),
      text === null ? el("p", { class: "muted" }, none) : showParts(parts, mark),
    );
  return el(
    "div",
    { class: "sides" },
    column(heads[0], a, left, "a", nothing[0]),
    column(heads[1], b, right, "b", nothing[1]),
  );
}
