// An agent that is traced by Langfuse's JavaScript SDK 5, as agent.py.
import { LangfuseClient } from "@langfuse/client";
import { LangfuseSpanProcessor } from "@langfuse/otel";
import { propagateAttributes, startActiveObservation, startObservation } from "@langfuse/tracing";
import { NodeSDK } from "@opentelemetry/sdk-node";

const sdk = new NodeSDK({ spanProcessors: [new LangfuseSpanProcessor()] });
sdk.start();
const told = {};
await propagateAttributes({ userId: "ann", sessionId: "shift-7", traceName: "staffing" }, () =>
  startActiveObservation(
    "dispatcher",
    async (agent) => {
      told.trace = agent.traceId;
      told.agent = agent.id;
      agent.update({ input: { week: 31 } });
      startObservation("find_workers", { input: { role: "forklift", count: 2 } }, { asType: "tool" })
        .update({ output: { workers: ["Ann", "Bo"] } })
        .end();
      startObservation("post_advert", { input: { city: "Toledo" } }, { asType: "tool" })
        .update({ level: "ERROR", statusMessage: "board is closed" })
        .end();
      const generation = startObservation(
        "answer",
        { model: "small-chat", input: "Who can drive a forklift?" },
        { asType: "generation" },
      );
      told.generation = generation.id;
      generation.update({ output: "Ann and Bo can.", usageDetails: { input: 21, output: 9 } }).end();
      startObservation("shift_opened", { input: { city: "Toledo" } }, { asType: "event" });
      agent.update({ output: "done" });
    },
    { asType: "agent" },
  ),
);
await sdk.shutdown();
const client = new LangfuseClient();
const of = { traceId: told.trace, observationId: told.generation };
client.score.create({ ...of, name: "accuracy", value: 0.3, comment: "made up" });
client.score.create({ traceId: told.trace, name: "resolved", value: 0, dataType: "BOOLEAN" });
client.score.create({ ...of, name: "output", value: "Ann can.", dataType: "CORRECTION" });
await client.flush();
await client.shutdown();
console.log(JSON.stringify(told));
