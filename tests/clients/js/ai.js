// Vercel's AI SDK with its provider for compatible servers. What the engine answers is said in test_javascript.py.
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const model = ({ url, key, model: id }) =>
  createOpenAICompatible({ name: "gateway", baseURL: `${url}/v1`, apiKey: key, includeUsage: true })(id);
const prompt = "Weather in Paris?";
const schema = z.object({ city: z.string() });

export default {
  async plain(to) {
    const { text, finishReason, usage } = await generateText({ model: model(to), prompt, maxRetries: 0 });
    assert.equal(text, to.answer);
    assert.equal(finishReason, "stop");
    assert.equal(usage.outputTokens, 9);
  },

  async streamed(to) {
    const result = streamText({ model: model(to), prompt, maxRetries: 0 });
    let text = "";
    for await (const piece of result.textStream) text += piece;
    assert.equal(text, to.answer);
    assert.equal(await result.finishReason, "stop");
    assert.equal((await result.usage).outputTokens, 9);
  },

  async tools_streamed(to) {
    const asked = [];
    const get_weather = tool({ description: "The weather", inputSchema: schema, execute: async (input) => void asked.push(input) ?? "18 C" });
    const result = streamText({ model: model(to), prompt, tools: { get_weather }, stopWhen: stepCountIs(2), maxRetries: 0 });
    await result.consumeStream();
    const [first] = await result.steps;
    assert.equal(first.finishReason, "tool-calls");
    assert.equal(first.toolCalls[0].toolName, "get_weather");
    assert.deepEqual(asked[0], { city: "Paris" });
    assert.equal(first.toolResults[0].output, "18 C");
    assert.equal((await result.steps).length, 2); // the result went back to the model
  },

  async an_answer_of_a_given_form(to) {
    const { object } = await generateObject({ model: model(to), prompt, schema, maxRetries: 0 });
    assert.deepEqual(object, { city: "Paris" });
  },
};
