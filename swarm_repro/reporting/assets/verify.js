// The page of `verify`: verdict, counts, environment, timeline and list of the calls asked again.

const LOOKS = [
  { key: "change", style: "root", letter: "C", label: "real change", rank: 9 },
  { key: "failed", style: "failed", letter: "X", label: "failed", rank: 8 },
  { key: "prompt", style: "changed", letter: "P", label: "rendered prompt differs", rank: 6 },
  { key: "near_tie", style: "fallout", letter: "N", label: "near tie", rank: 4 },
  { key: "same", style: "identical", letter: "\u00b7", label: "same", rank: 0 },
];
const looks = new Map(LOOKS.map((one) => [one.key, one]));
const look = (call) => looks.get(call.group);
const differs = (call) => call.group !== "same";
const place = (call) => (call.at ? `epoch ${call.at[0]}, step ${call.at[1]}` : null);
const ratio = (call) => `${number(call.differing)} of ${number(call.of)} differ`;
const nameOf = (call) =>
  [`call ${call.number}`, `${call.scope} #${call.i}`, call.kind, place(call), look(call).label, ratio(call)].filter(Boolean).join(", ");
const names = ["the recording", "the live answer"];

function detail(call) {
  return [
    el(
      "p",
      { class: "facts" },
      [call.kind ? ["kind ", t(call.kind)] : null, place(call), call.n ? `repeat ${call.n}` : null, ratio(call), many(call.distinct, "distinct answer")]
        .filter(Boolean)
        .map((fact) => el("span", {}, fact)),
    ),
    call.why === null ? null : el("p", {}, t(call.why, 2000)),
    call.parting ? partingView(call.parting, names) : null,
    el("h3", {}, "Completions"),
    sideBySide(call.completion.a, call.completion.b, ["Recorded", "First differing live answer"], ["No recorded text.", differs(call) ? "No live text." : "No live answer differed."]),
  ];
}

const anyDifference = report.calls.some(differs);
const explorer = makeExplorer({
  items: report.calls,
  noun: "call",
  timeline: "Timeline",
  list: anyDifference ? "Calls that differ" : "Calls",
  looks: LOOKS,
  look,
  name: nameOf,
  differs,
  filters: LOOKS.map((one) => ({ one, count: report.calls.filter((call) => look(call) === one).length }))
    .filter(({ count }) => count)
    .map(({ one, count }) => ({
      label: [badge(one, { "aria-hidden": "true" }), ` ${one.label} (${number(count)})`],
      has: (call) => look(call) === one,
      on: one.key !== "same" || !anyDifference,
    })),
  title: (call) => [badge(look(call), { "aria-hidden": "true" }), ` Call ${number(call.number)}: `, t(call.scope), ` #${call.i} \u2014 ${look(call).label}`],
  detail,
  search: (call) => [nameOf(call), call.why, call.completion.a, call.completion.b].join("\n"),
  columns: [
    { title: "Group", width: "13rem", cell: (call) => [badge(look(call), { "aria-hidden": "true" }), ` ${look(call).label}`] },
    { title: "Call", width: "4.5rem", cell: (call) => number(call.number) },
    { title: "Agent", width: "minmax(6rem, 11rem)", cell: (call) => t(`${call.scope} #${call.i}`, 60) },
    { title: "Epoch, step", width: "5.5rem", cell: (call) => (call.at ? call.at.join(", ") : "\u2013") },
    { title: "Kind", width: "6rem", cell: (call) => (call.kind ? t(call.kind, 40) : "\u2013") },
    { title: "Differing", width: "6.5rem", cell: (call) => `${number(call.differing)} of ${number(call.of)}` },
    { title: "Distinct", width: "5rem", cell: (call) => number(call.distinct) },
    { title: "Where they part, or why", width: "minmax(12rem, 1fr)", cell: (call) => (call.parting ? [t(call.parting.a, 30), " | ", t(call.parting.b, 30)] : call.why !== null ? t(call.why, 160) : "") },
  ],
});

page(
  "verify",
  t(report.cassette),
  el("p", { class: "facts" }, el("span", {}, `each call asked ${report.repeat === 1 ? "once" : `${number(report.repeat)} times`}, in ${report.order} order`), report.witness === null ? null : el("span", {}, "written as witness: ", t(report.witness))),
  environmentDifferences("Environments differ in", report.environment, ["recorded", "now"]),
  explorer.element,
);
