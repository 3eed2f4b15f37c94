// The openai package of Node.js: a completion and a stream, in a scope of its own.
// It finds the endpoint in OPENAI_BASE_URL, which `swarm-repro exec` sets.
import OpenAI from "openai";

const client = new OpenAI({ defaultHeaders: { "x-swarm-repro-scope": "node" } });
const ask = (thing) => ({
  model: "smollm2",
  messages: [{ role: "user", content: `Name a ${thing}.` }],
  max_tokens: 12,
  seed: 7,
});

const answer = await client.chat.completions.create(ask("colour"));
console.log(answer.choices[0].message.content, answer.usage.completion_tokens);

let said = "";
const stream = await client.chat.completions.create({ ...ask("river"), stream: true });
for await (const event of stream) said += event.choices[0]?.delta?.content ?? "";
console.log(said);
