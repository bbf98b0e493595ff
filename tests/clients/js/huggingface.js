// Hugging Face's JavaScript client. What the engine answers is said in test_javascript.py.
import assert from "node:assert/strict";
import { InferenceClient } from "@huggingface/inference";

const client = ({ url, key }) => new InferenceClient(key, { endpointUrl: url });
const messages = [{ role: "user", content: "Weather in Paris?" }];

export default {
  async text_generation(to) {
    const { generated_text } = await client(to).textGeneration({ inputs: "Once upon a time", parameters: { max_new_tokens: 20 } });
    assert.equal(generated_text, to.answer);
  },

  async chat(to) {
    const { choices } = await client(to).chatCompletion({ messages, model: to.model });
    assert.equal(choices[0].message.content, to.answer);
  },

  async chat_streamed(to) {
    let text = "";
    for await (const { choices } of client(to).chatCompletionStream({ messages })) text += choices[0]?.delta.content ?? "";
    assert.equal(text, to.answer);
  },

  async tools_streamed(to) {
    const parameters = { type: "object", properties: { city: { type: "string" } } };
    const tools = [{ type: "function", function: { name: "get_weather", parameters } }];
    const calls = [];
    for await (const { choices } of client(to).chatCompletionStream({ messages, tools })) {
      calls.push(...(choices[0]?.delta.tool_calls ?? []));
    }
    assert.equal(calls[0].function.name, "get_weather");
    assert.deepEqual(JSON.parse(calls.map((call) => call.function.arguments).join("")), { city: "Paris" });
  },
};
