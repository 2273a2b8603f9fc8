// An agent in JavaScript, traced by unmodified SDKs: an agent span, a tool that fails, a model call through the gateway.
// `node agent.mjs grpc|http/protobuf|http/json`. OTEL_EXPORTER_OTLP_ENDPOINT says where the spans go; STRAIGHT, where the same
// spans go as well, so that both can be compared; GATEWAY_URL, where the model is.
import { SpanStatusCode, trace } from '@opentelemetry/api'
import { OpenAIInstrumentation } from '@arizeai/openinference-instrumentation-openai'
import { OTLPTraceExporter as GrpcExporter } from '@opentelemetry/exporter-trace-otlp-grpc'
import { OTLPTraceExporter as JsonExporter } from '@opentelemetry/exporter-trace-otlp-http'
import { OTLPTraceExporter as ProtobufExporter } from '@opentelemetry/exporter-trace-otlp-proto'
import { UndiciInstrumentation } from '@opentelemetry/instrumentation-undici'
import { NodeSDK, tracing } from '@opentelemetry/sdk-node'
import OpenAI from 'openai'

const exporters = { 'grpc': GrpcExporter, 'http/protobuf': ProtobufExporter, 'http/json': JsonExporter }
const model = new OpenAIInstrumentation()
const sdk = new NodeSDK({
  serviceName: 'js-agent',
  instrumentations: [model, new UndiciInstrumentation()],
  spanProcessors: [
    new tracing.BatchSpanProcessor(new exporters[process.argv[2]]()),
    new tracing.BatchSpanProcessor(new ProtobufExporter({ url: process.env.STRAIGHT })),
  ],
})
sdk.start()
model.manuallyInstrument(OpenAI)

const tracer = trace.getTracer('js-agent', '1.0')
const openai = new OpenAI({ apiKey: 'none', baseURL: `${process.env.GATEWAY_URL}/v1`, maxRetries: 0 })

await tracer.startActiveSpan('invoke_agent staffing', async (agent) => {
  agent.setAttributes({ 'gen_ai.operation.name': 'invoke_agent', 'gen_ai.agent.name': 'staffing', 'session.id': 'js-1' })
  await tracer.startActiveSpan('execute_tool find_workers', async (tool) => {
    tool.setAttributes({
      'gen_ai.operation.name': 'execute_tool',
      'gen_ai.tool.name': 'find_workers',
      'gen_ai.tool.call.arguments': JSON.stringify({ role: 'forklift', count: 2 }),
      'numbers': [1, 2, 3],
      'half': 0.5,
      'yes': true,
    })
    tool.addEvent('looked', { where: 'Toledo, é ×' })
    tool.setStatus({ code: SpanStatusCode.ERROR, message: 'nobody is free' })
    tool.end()
  })
  await openai.chat.completions.create({ model: 'small-chat', messages: [{ role: 'user', content: 'Who is free?' }] })
  agent.end()
})
await sdk.shutdown()
