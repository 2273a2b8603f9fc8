// An agent that is traced by Langfuse's JavaScript SDK 3, which sends create and update events. As agent_v2.py.
const { Langfuse } = require("langfuse");

async function main() {
  const client = new Langfuse();
  const trace = client.trace({ name: "staffing", userId: "ann", sessionId: "shift-7", input: { week: 31 } });
  const span = trace.span({ name: "dispatch", input: { week: 31 } });
  const generation = span.generation({ name: "answer", model: "small-chat", input: "Who can drive a forklift?" });
  generation.end({ output: "Ann and Bo can.", usage: { input: 21, output: 9 } });
  span.event({ name: "shift_opened", input: { city: "Toledo" } });
  span.update({ metadata: { seen: "by nobody" } });
  span.end({ output: "done" });
  generation.score({ name: "accuracy", value: 0.3, comment: "made up" });
  trace.score({ name: "resolved", value: 0, dataType: "BOOLEAN" });
  await client.shutdownAsync();
  console.log(JSON.stringify({ trace: trace.id, agent: span.id, generation: generation.id }));
}

main();
