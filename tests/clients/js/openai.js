// OpenAI's own JavaScript SDK. What the engine answers in each case is said in test_javascript.py.
import assert from "node:assert/strict";
import OpenAI from "openai";

const messages = [{ role: "user", content: "Weather in Paris?" }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false };
const tool = { type: "function", function: { name: "get_weather", description: "The weather", parameters } };

const sdk = ({ url, key }) => new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
const collect = async (stream) => {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
};
const content = (chunks) => chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
const deltas = (events) => events.filter((e) => e.type === "response.output_text.delta").map((e) => e.delta).join("");
const isCall = (call) => {
  assert.equal(call.type, "function");
  assert.equal(call.function.name, "get_weather");
  assert.deepEqual(JSON.parse(call.function.arguments), { city: "Paris" });
};

export default {
  async chat(to) {
    const { data, response, request_id } = await sdk(to).chat.completions.create({ model: to.model, messages }).withResponse();
    assert.equal(data.choices[0].message.content, to.answer);
    assert.equal(data.choices[0].finish_reason, "stop");
    assert.equal(data.usage.completion_tokens, 9);
    assert.equal(data.model, to.model);
    assert.equal(request_id, response.headers.get("x-request-id"));
    assert.ok(Number(response.headers.get("x-ratelimit-remaining-requests")) > 0);
  },

  async chat_streamed(to) {
    const stream_options = { include_usage: true };
    const stream = await sdk(to).chat.completions.create({ model: to.model, messages, stream: true, stream_options });
    const chunks = await collect(stream);
    assert.equal(content(chunks), to.answer);
    assert.equal(chunks.at(-2).choices[0].finish_reason, "stop");
    assert.equal(chunks.at(-1).usage.completion_tokens, 9);
    assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
  },

  async chat_with_the_stream_helper(to) {
    const runner = sdk(to).chat.completions.stream({ model: to.model, messages });
    let told = "";
    runner.on("content", (delta) => (told += delta));
    assert.equal(await runner.finalContent(), to.answer);
    assert.equal(told, to.answer);
  },

  async leaving_a_stream(to) {
    const stream = await sdk(to).chat.completions.create({ model: to.model, messages, stream: true });
    for await (const chunk of stream) if (chunk.choices[0].delta.content) break;
  },

  async tools(to) {
    const { choices } = await sdk(to).chat.completions.create({ model: to.model, messages, tools: [tool] });
    assert.equal(choices[0].finish_reason, "tool_calls");
    isCall(choices[0].message.tool_calls[0]);
  },

  async tools_streamed(to) {
    const runner = sdk(to).chat.completions.stream({ model: to.model, messages, tools: [tool] });
    const { choices } = await runner.finalChatCompletion();
    assert.equal(choices[0].finish_reason, "tool_calls");
    isCall(choices[0].message.tool_calls[0]);
  },

  async an_answer_of_a_given_form(to) {
    const response_format = { type: "json_schema", json_schema: { name: "place", strict: true, schema: parameters } };
    const asked = { model: to.model, messages, response_format };
    const { choices } = await sdk(to).chat.completions.create(asked);
    assert.deepEqual(JSON.parse(choices[0].message.content), { city: "Paris" });
    const parsed = await sdk(to).chat.completions.parse(asked);
    assert.equal(parsed.choices[0].message.refusal ?? null, null);
    assert.deepEqual(JSON.parse(await sdk(to).chat.completions.stream(asked).finalContent()), { city: "Paris" });
  },

  async log_probabilities(to) {
    const { choices } = await sdk(to).chat.completions.create({ model: to.model, messages, logprobs: true, top_logprobs: 1 });
    assert.equal(choices[0].logprobs.content.map((token) => token.token).join(""), to.answer);
    assert.equal(choices[0].logprobs.content[0].top_logprobs.length, 1);
  },

  async completions(to) {
    const asked = { model: to.model, prompt: "Once upon a time", max_tokens: 20 };
    const { choices, usage, object } = await sdk(to).completions.create(asked);
    assert.equal(object, "text_completion");
    assert.equal(choices[0].text, to.answer);
    assert.equal(usage.prompt_tokens, 4);
    const pieces = await collect(await sdk(to).completions.create({ ...asked, stream: true }));
    assert.equal(pieces.map((piece) => piece.choices[0]?.text ?? "").join(""), to.answer);
  },

  async models(to) {
    const ids = (await collect(sdk(to).models.list())).map((model) => model.id);
    assert.deepEqual(ids, [to.model]);
    assert.equal((await sdk(to).models.retrieve(to.model)).id, to.model);
  },

  async responses(to) {
    const client = sdk(to);
    const first = await client.responses.create({ model: to.model, input: "hi", instructions: "Be brief.", metadata: { a: "b" } });
    assert.equal(first.output_text, to.answer);
    assert.equal(first.status, "completed");
    assert.equal((await client.responses.retrieve(first.id)).output_text, to.answer);
    const second = await client.responses.create({ model: to.model, input: "more", previous_response_id: first.id });
    assert.equal(second.previous_response_id, first.id);
    const items = await collect(client.responses.inputItems.list(second.id));
    assert.equal(items[0].content[0].text, "more");
    await client.responses.delete(first.id);
    await assert.rejects(client.responses.retrieve(first.id), OpenAI.NotFoundError);
  },

  async responses_streamed(to) {
    const events = await collect(await sdk(to).responses.create({ model: to.model, input: "hi", stream: true }));
    assert.deepEqual(events.map((event) => event.sequence_number), [...events.keys()]);
    assert.equal(deltas(events), to.answer);
    assert.equal(events.at(-1).type, "response.completed");
    const helper = sdk(to).responses.stream({ model: to.model, input: "hi" });
    let told = "";
    helper.on("response.output_text.delta", (event) => (told += event.delta));
    assert.equal((await helper.finalResponse()).output_text, to.answer);
    assert.equal(told, to.answer);
  },

  async responses_with_tools(to) {
    const client = sdk(to);
    const tools = [{ type: "function", strict: true, ...tool.function }];
    const asked = { model: to.model, input: messages, tools };
    const plain = await client.responses.create(asked);
    const streamed = await client.responses.stream(asked).finalResponse();
    for (const response of [plain, streamed]) {
      const [call] = response.output.filter((item) => item.type === "function_call");
      assert.equal(call.name, "get_weather");
      assert.deepEqual(JSON.parse(call.arguments), { city: "Paris" });
    }
  },

  async a_background_answer(to) {
    const client = sdk(to);
    const stream = await client.responses.create({ model: to.model, input: "go", background: true, stream: true });
    const seen = [];
    for await (const event of stream) {
      seen.push(event);
      if (seen.filter((e) => e.type === "response.output_text.delta").length === 2) break;
    }
    const id = seen[0].response.id;
    const again = await client.responses.retrieve(id, { stream: true, starting_after: seen.at(-1).sequence_number });
    seen.push(...(await collect(again)));
    assert.deepEqual(seen.map((event) => event.sequence_number), [...seen.keys()]);
    assert.equal(deltas(seen), to.answer);
    assert.equal(seen.at(-1).type, "response.completed");
    assert.equal((await client.responses.retrieve(id)).output_text, to.answer);
    const helped = client.responses.stream({ response_id: id, starting_after: 3 });
    assert.equal((await collect(helped)).length > 0, true);
    await client.responses.delete(id);
    await assert.rejects(client.responses.retrieve(id), OpenAI.NotFoundError);
  },

  async cancelling_a_background_answer(to) {
    const client = sdk(to);
    const { id } = await client.responses.create({ model: to.model, input: "go", background: true });
    const cancelled = await client.responses.cancel(id);
    assert.equal(cancelled.status, "cancelled");
    assert.equal((await client.responses.retrieve(id)).status, "cancelled");
  },

  async conversations(to) {
    const { conversations, responses } = sdk(to);
    const first = [{ type: "message", role: "user", content: "zero" }];
    const { id } = await conversations.create({ metadata: { title: "t" }, items: first });
    assert.deepEqual((await conversations.retrieve(id)).metadata, { title: "t" });
    assert.deepEqual((await conversations.update(id, { metadata: { title: "u" } })).metadata, { title: "u" });
    await responses.create({ model: to.model, input: "one", conversation: id });
    await conversations.items.create(id, { items: [{ type: "message", role: "user", content: "two" }] });
    const items = await collect(conversations.items.list(id, { order: "asc", limit: 1 })); // it pages by itself
    assert.deepEqual(items.map((item) => item.content[0].text), ["zero", "one", to.answer, "two"]);
    const got = await conversations.items.retrieve(items[0].id, { conversation_id: id });
    assert.equal(got.content[0].text, "zero");
    await conversations.items.delete(got.id, { conversation_id: id });
    assert.equal((await collect(conversations.items.list(id))).length, 3);
    assert.equal((await conversations.delete(id)).deleted, true);
    await assert.rejects(conversations.retrieve(id), OpenAI.NotFoundError);
  },

  async errors(to) {
    const chat = (fields, options) => sdk(to).chat.completions.create({ model: to.model, messages, ...fields }, options);
    const badly = { name: "Error", param: "temperature", code: "invalid_request", status: 400 };
    await assert.rejects(chat({ temperature: -1 }), ({ param, code, status, requestID }) => {
      assert.deepEqual({ ...badly, param, code, status }, badly);
      return requestID.startsWith("req_");
    });
    await assert.rejects(chat({ model: "gpt-4" }), OpenAI.NotFoundError);
    await assert.rejects(sdk({ ...to, key: "sk-wrong" }).models.list(), OpenAI.AuthenticationError);
  },

  async an_error_in_mid_stream(to) {
    const stream = await sdk(to).chat.completions.create({ model: to.model, messages, stream: true });
    await assert.rejects(collect(stream), OpenAI.APIError);
    const response = await sdk(to).responses.stream({ model: to.model, input: "hi" }).finalResponse();
    assert.deepEqual([response.status, response.error.code], ["failed", "upstream_failed"]);
  },
};
