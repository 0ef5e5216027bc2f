// The `openai` package of npm against a gateway: prints what came of it as JSON. Arguments: the URL.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey: "any", maxRetries: 0 });
const messages = [{ role: "user", content: "hello" }];
const tools = [{ type: "function", function: { name: "get_weather", parameters: { type: "object" } } }];
const told = {};

told.models = (await client.models.list()).data.map((one) => one.id);
const whole = await client.chat.completions.create({ model: "demo", messages, tools });
told.whole = whole.choices[0];
const stream = client.chat.completions.stream({ model: "demo", messages, tools });
told.streamed = (await stream.finalChatCompletion()).choices[0];
const response = client.responses.stream({
  model: "demo",
  input: "hello",
  tools: tools.map((one) => ({ type: "function", strict: false, ...one.function })),
});
told.response = (await response.finalResponse()).output;
try {
  await client.chat.completions.create({ model: "demo", messages, logit_bias: { 5: "no" } });
} catch (error) {
  told.error = { status: error.status, code: error.code };
}
console.log(JSON.stringify(told));
