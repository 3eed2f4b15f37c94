// The page of `diff`: verdict, the two recordings, origins in causal order, timeline, calls.

const calls = report.calls;
const indexOf = new Map(calls.map((call, index) => [call.number, index]));
const origins = new Map(report.origins.map((origin) => [origin.id, origin]));
// By place of a call: the origins that begin there; one call may differ for several causes.
const begin = new Map();
for (const origin of report.origins) {
  const index = indexOf.get(origin.call);
  begin.set(index, [...(begin.get(index) ?? []), origin]);
}
const beginsAt = (index) => begin.get(index) ?? [];
// By origin: places of the calls that go back to it, in order.
const followers = new Map(report.origins.map((origin) => [origin.id, []]));
calls.forEach((call, index) => {
  for (const id of call.origins) if (indexOf.get(origins.get(id)?.call) !== index) followers.get(id)?.push(index);
});

const LOOKS = [
  { style: "root", letter: "R", label: "root divergence", rank: 9 },
  { style: "changed", letter: "C", label: "changed", rank: 8 },
  { style: "fallout", letter: "F", label: "fallout, proven", rank: 4 },
  { style: "fallout assumed", letter: "f", label: "fallout, assumed", rank: 3 },
  { style: "only-a", letter: "A", label: "only in A", rank: 6 },
  { style: "only-b", letter: "B", label: "only in B", rank: 5 },
  { style: "identical", letter: "\u00b7", label: "identical", rank: 0 },
];
const look = (call) =>
  ({
    root: LOOKS[0],
    changed: LOOKS[1],
    fallout: call.proven === false ? LOOKS[3] : LOOKS[2],
    only_a: LOOKS[4],
    only_b: LOOKS[5],
    identical: LOOKS[6],
  })[call.class];
const differs = (call) => call.class !== "identical";
const place = (call) => (call.at ? `epoch ${call.at[0]}, step ${call.at[1]}` : null);
const nameOf = (call) =>
  [`call ${call.number}`, `${call.scope} #${call.i}`, call.kind, place(call), look(call).label].filter(Boolean).join(", ");
const originName = (origin) => `${origin.kind} ${origin.id + 1}`;
const tokenText = (tokens) => (tokens ? `${valueText(tokens.prompt)} + ${valueText(tokens.completion)}` : "\u2013");

let current = null; // the origin whose followers are being walked through

function originFor(explorer) {
  const call = calls[explorer.selected];
  if (!call) return current ?? report.origins[0] ?? null;
  const own = beginsAt(explorer.selected);
  if (own.length) return own.includes(current) ? current : own[0];
  if (current && call.origins.includes(current.id)) return current;
  return call.origins.length ? origins.get(call.origins[0]) ?? null : current;
}

function follow(origin, direction) {
  const list = origin ? followers.get(origin.id) : [];
  if (!list.length) return say("There is no fallout to go to.");
  current = origin;
  const at = explorer.selected;
  const place =
    direction > 0
      ? list.find((index) => index > at) ?? list[0]
      : list.findLast((index) => index < at) ?? list[list.length - 1];
  explorer.select(place, { show: true, speak: true });
}

function toOrigin(origin, options = {}) {
  if (!origin) return;
  if (!indexOf.has(origin.call)) return say(`Call ${origin.call} is not on this page.`);
  current = origin;
  explorer.select(indexOf.get(origin.call), { show: true, speak: true, ...options });
}

function listFollowers(origin) {
  const own = indexOf.get(origin.call);
  const list = new Set([own, ...followers.get(origin.id)].map((index) => calls[index]));
  explorer.table.narrow(`${originName(origin)} and what follows`, (call) => list.has(call));
  explorer.table.scroller.focus();
  explorer.table.scroller.scrollIntoView({ block: "center" });
}

const followWord = (origin) => (origin.kind === "root" ? "fallout" : "affected call");

function tools(call) {
  const origin = originFor(explorer);
  const own = beginsAt(indexOf.get(call.number)).includes(origin);
  if (!origin || !(own || call.origins.includes(origin.id))) return [];
  const list = followers.get(origin.id);
  const word = followWord(origin);
  if (own)
    return list.length
      ? [
          tool("fallout", `Next ${word} (${number(list.length)})`, () => follow(origin, 1), `First ${word} of ${originName(origin)} (f)`),
          tool("list", "List them", () => listFollowers(origin)),
        ]
      : [];
  const at = list.indexOf(indexOf.get(call.number)) + 1;
  return [
    tool("root", `Back to ${originName(origin)}`, () => toOrigin(origin), "To the call it goes back to (b)"),
    tool("fallout", `Next ${word} (${number(at)} of ${number(list.length)})`, () => follow(origin, 1), `Next ${word} of ${originName(origin)} (f)`),
  ];
}

function detail(call) {
  const own = beginsAt(indexOf.get(call.number));
  const back = call.origins.filter((id) => origins.has(id) && !own.includes(origins.get(id)));
  return [
    el(
      "p",
      { class: "facts" },
      [
        call.kind ? ["kind ", t(call.kind)] : null,
        place(call),
        call.n ? `repeat ${call.n}` : null,
        `in A: ${call.a === null ? "not there" : `call ${call.a}`}`,
        `in B: ${call.b === null ? "not there" : `call ${call.b}`}`,
        `tokens (prompt + completion) ${tokenText(call.tokens.a)} and ${tokenText(call.tokens.b)}`,
        `time ${seconds(call.duration_s.a)} and ${seconds(call.duration_s.b)}`,
      ]
        .filter(Boolean)
        .map((fact) => el("span", {}, fact)),
    ),
    back.length
      ? el(
          "p",
          {},
          call.class === "fallout" ? (call.proven ? "Follows (its prompt holds the other text) from " : "Follows, it is assumed, from ") : "Goes back to ",
          back.slice(0, 12).map((id) => [button(`${originName(origins.get(id))} (call ${origins.get(id).call})`, () => toOrigin(origins.get(id)), { class: "link" }), " "]),
          back.length > 12 ? `and ${back.length - 12} more` : null,
        )
      : null,
    el("h3", {}, "Completions"),
    sideBySide(call.completion.a, call.completion.b, ["A", "B"], ["No such call in A.", "No such call in B."]),
    own.map((origin) => [el("h3", {}, `Here begins ${originName(origin)}`), originBody(origin)]),
    call.differences.length ? el("h3", {}, many(call.differences.length, "field differs", "fields differ")) : null,
    call.differences.slice(0, 50).map((one) => fieldChange(one.field, one.a, one.b, one.character, ["A", "B"])),
    call.differences.length > 50 ? el("p", { class: "muted" }, `and ${many(call.differences.length - 50, "more field")}; they are in the JSON report`) : null,
  ];
}

function originBody(origin) {
  if (origin.kind === "cause")
    return [
      fieldChange(origin.field, origin.a, origin.b, origin.character, ["A", "B"]),
      el("p", {}, "In ", many(origin.calls, "call"), " of ", origin.scopes.slice(0, 12).map((scope, at) => [at ? ", " : null, t(scope)]), origin.scopes.length > 12 ? ` and ${origin.scopes.length - 12} more` : null),
    ];
  return [
    origin.parting ? partingView(origin.parting, ["A", "B"]) : null,
    origin.evidence.length ? el("ul", { class: "evidence" }, origin.evidence.map((line) => el("li", {}, t(line, 1000)))) : null,
    environmentDifferences("Environments of this call", origin.environment, ["A", "B"]),
  ];
}

function originCard(origin) {
  const index = indexOf.get(origin.call); // not there where the report leaves calls out
  const call = calls[index];
  const { proven, assumed, shared } = origin.fallout;
  const list = followers.get(origin.id);
  return el(
    "li",
    { class: `origin ${origin.kind}`, "data-origin": origin.id },
    el(
      "h3",
      {},
      badge(origin.kind === "root" ? LOOKS[0] : LOOKS[1], { "aria-hidden": "true" }),
      ` ${originName(origin)}: `,
      origin.kind === "root" ? "same request, other completion" : "another request",
      " \u2014 call ",
      number(origin.call),
      ", ",
      call ? [t(`${call.scope} #${call.i}`), place(call) ? `, ${place(call)}` : null, call.kind ? [", ", t(call.kind)] : null] : "not on this page",
    ),
    originBody(origin),
    el(
      "p",
      { class: "actions" },
      el("span", {}, `Fallout: ${number(proven)} proven, ${number(assumed)} assumed`, shared ? `, ${number(shared)} shared with other origins` : null),
      call ? button("Open the call", () => toOrigin(origin, { focus: true })) : null,
      list.length
        ? button(`Next ${followWord(origin)}`, () => {
            explorer.selected = index ?? -1;
            follow(origin, 1);
          })
        : null,
      list.length ? button("List them", () => listFollowers(origin)) : null,
    ),
  );
}

const MOST_METRICS = 200;
function metrics() {
  if (!report.metrics.length) return null;
  const head = ["metric", "run seed", "epoch", "A", "B"];
  return el(
    "details",
    {},
    el("summary", {}, `${many(report.metrics.length, "metric value")} moved`),
    el(
      "table",
      { class: "pairs", id: "metrics" },
      el("thead", {}, el("tr", {}, head.map((title) => el("th", { scope: "col" }, title)))),
      el(
        "tbody",
        {},
        report.metrics.slice(0, MOST_METRICS).map((one) =>
          el("tr", {}, el("th", { scope: "row" }, t(one.metric)), [one.seed, one.epoch, one.a, one.b].map((value) => el("td", {}, t(valueText(value))))),
        ),
      ),
    ),
    report.metrics.length > MOST_METRICS ? el("p", { class: "muted" }, `and ${number(report.metrics.length - MOST_METRICS)} more; they are in the JSON report`) : null,
  );
}

const PAGE = 10; // origins on the page at a time
function originList() {
  if (!report.origins.length) return null;
  const list = el("ol", { class: "origins" });
  const where = el("span", { class: "muted", role: "status" });
  let first = 0;
  function turn(to) {
    first = Math.max(0, Math.min(to, Math.floor((report.origins.length - 1) / PAGE) * PAGE));
    const last = Math.min(report.origins.length, first + PAGE);
    list.replaceChildren(...report.origins.slice(first, last).map(originCard));
    where.textContent = `${number(first + 1)} to ${number(last)} of ${number(report.origins.length)}`;
  }
  turn(0);
  return section(
    "Where the runs part, in causal order",
    list,
    report.origins.length > PAGE
      ? el("p", { class: "pager" }, button("\u2039 Earlier", () => turn(first - PAGE)), where, button("Later \u203a", () => turn(first + PAGE)))
      : null,
  );
}

function recordings() {
  const { a, b } = report;
  const row = (field, value, limit = 400) => {
    const [left, right] = [value(a), value(b)];
    return [field, t(left, limit), t(right, limit), left !== right];
  };
  const inA = environmentFields(a.environments);
  const inB = environmentFields(b.environments);
  const fields = [...new Set([...inA.keys(), ...inB.keys()])];
  return el(
    "section",
    { "aria-label": "The two recordings" },
    pairTable("The two recordings", ["", "A", "B"], [
      row("file", (side) => side.file).slice(0, 3),
      row("run", (side) =>
        [valueText(side.scenario), many(side.calls, "call"), side.run_seeds.length ? `seed ${side.run_seeds.join(", ")}` : null, side.strict ? "strict" : "not strict"]
          .filter((part) => part !== null)
          .join(", "),
      ),
      row("models", (side) => side.models.map((model) => `${model.name} (${model.label})`).join(", ")),
      row("tokens", (side) => `${number(side.tokens.prompt)} prompt + ${number(side.tokens.completion)} completion`),
      row("model time", (side) => seconds(side.duration_s)).slice(0, 3),
    ]),
    environmentDifferences("Environments differ in", report.environment, ["A", "B"]),
    fields.length
      ? el(
          "details",
          {},
          el("summary", {}, `Environments in full (${many(fields.length, "field")}${report.environment.length ? "" : "; no difference"})`),
          pairTable("Environments in full", ["field", "A", "B"], fields.map((field) => {
            const [left, right] = [inA.get(field) ?? "\u2013", inB.get(field) ?? "\u2013"];
            return [t(field), t(left, 2000), t(right, 2000), left !== right];
          })),
        )
      : null,
    metrics(),
  );
}

const anyDifference = calls.some(differs);
const filters = LOOKS.map((one) => ({ one, count: calls.filter((call) => look(call) === one).length }))
  .filter(({ count }) => count)
  .map(({ one, count }) => ({
    label: [badge(one, { "aria-hidden": "true" }), ` ${one.label} (${number(count)})`],
    has: (call) => look(call) === one,
    on: one.style !== "identical" || !anyDifference,
  }));

const explorer = makeExplorer({
  items: calls,
  noun: "call",
  timeline: "Timeline",
  list: anyDifference ? "Differing calls" : "Calls",
  looks: LOOKS,
  look,
  name: nameOf,
  differs,
  filters,
  title: (call) => [badge(look(call), { "aria-hidden": "true" }), ` Call ${number(call.number)}: `, t(call.scope), ` #${call.i} \u2014 ${look(call).label}`],
  detail,
  tools,
  keys: (explorer) => ({
    r: () => explorer.next(1, (call) => begin.has(indexOf.get(call.number)), "root or cause"),
    R: () => explorer.next(-1, (call) => begin.has(indexOf.get(call.number)), "root or cause"),
    f: () => follow(originFor(explorer), 1),
    F: () => follow(originFor(explorer), -1),
    b: () => toOrigin(originFor(explorer)),
  }),
  keyHelp: [["r R", "next, previous root or cause"], ["f F", "next, previous fallout"], ["b", "back to the root"]],
  linked: (explorer) => {
    const origin = explorer.selected < 0 ? null : originFor(explorer);
    return origin ? new Set(followers.get(origin.id)) : null;
  },
  search: (call) =>
    [nameOf(call), ...call.differences.flatMap((one) => [one.field, one.a, one.b]), call.completion.a, call.completion.b].join("\n"),
  columns: [
    { title: "Class", width: "10.5rem", cell: (call) => [badge(look(call), { "aria-hidden": "true" }), ` ${look(call).label}`] },
    { title: "Call", width: "4.5rem", cell: (call) => number(call.number) },
    { title: "Agent", width: "minmax(6rem, 11rem)", cell: (call) => t(`${call.scope} #${call.i}`, 60) },
    { title: "Epoch, step", width: "5.5rem", cell: (call) => (call.at ? call.at.join(", ") : "\u2013") },
    { title: "Kind", width: "6rem", cell: (call) => (call.kind ? t(call.kind, 40) : "\u2013") },
    { title: "Goes back to", width: "8rem", cell: (call) => call.origins.slice(0, 3).map((id) => (origins.has(id) ? originName(origins.get(id)) : "")).join(", ") + (call.origins.length > 3 ? ", \u2026" : "") },
    { title: "What differs", width: "minmax(12rem, 1fr)", cell: (call) => (call.differences.length ? [el("code", {}, t(call.differences.slice(0, 4).map((one) => one.field).join(", "), 120))] : call.class === "root" ? "completion" : "") },
    { title: "Tokens A, B", width: "8.5rem", cell: (call) => `${valueText(call.tokens.a?.completion)}, ${valueText(call.tokens.b?.completion)}` },
  ],
});

const leftOut = report.left_out || report.origins_left_out
  ? el("p", { id: "left-out" }, el("strong", {}, `${many(report.left_out, "more call")}${report.origins_left_out ? `, ${many(report.origins_left_out, "more origin")}` : ""} not on this page`), "; --limit says how many are.")
  : null;

page("diff", [t(report.a.file), " and ", t(report.b.file)], recordings(), originList(), leftOut, explorer.element);
