// A chat in the terminal, as examples/chat.py, in JavaScript.
//
//   npm install openai
//   BASE_URL=http://127.0.0.1:7860 API_KEY=sk-… node examples/chat.mjs [conversation]
import readline from "node:readline";
import OpenAI, { APIConnectionError, APIError } from "openai";

const ATTEMPTS = 8;
const PAUSE_MS = 1000;
const ENDS = ["response.completed", "response.incomplete", "response.failed"];

const missing = ["BASE_URL", "API_KEY"].filter((name) => !process.env[name]);
if (missing.length) {
  console.error(`Not set: ${missing.join(", ")}. export BASE_URL=http://127.0.0.1:7860 API_KEY=sk-…`);
  process.exit(2);
}
const client = new OpenAI({
  baseURL: process.env.BASE_URL.replace(/\/$/, "") + "/v1",
  apiKey: process.env.API_KEY,
});

/** What was said before. */
async function show(conversation) {
  for await (const item of client.conversations.items.list(conversation, { order: "asc", limit: 100 })) {
    if (item.type !== "message") continue;
    const text = item.content.map((part) => part.text ?? "").join("");
    console.log(item.role === "user" ? `> ${text}` : text);
  }
}

/** The answer's events, each once, over as many connections as it takes. */
async function* events(model, conversation, input) {
  let id = "";
  let seen = -1;
  for (let attempt = 1; ; attempt++) {
    try {
      const stream = id
        ? await client.responses.retrieve(id, { stream: true, starting_after: seen })
        : await client.responses.create({ model, conversation, input, stream: true, background: true });
      for await (const event of stream) {
        if (event.type === "response.created") id = event.response.id;
        seen = event.sequence_number ?? seen;
        yield event;
        if (ENDS.includes(event.type)) return;
      }
    } catch (error) {
      // A connection that breaks in the middle of an answer is Node's own error, not the SDK's.
      const isLost = error instanceof APIConnectionError || !(error instanceof APIError);
      if (!isLost || !id || attempt === ATTEMPTS) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}

/** Sends one message and prints its answer. */
async function answer(model, conversation, text) {
  for await (const event of events(model, conversation, text)) {
    if (event.type === "response.output_text.delta") process.stdout.write(event.delta);
    if (event.type === "response.incomplete") process.stdout.write(" …");
    if (event.type === "response.failed") process.stdout.write(`\n[${event.response.error?.message}]`);
  }
  process.stdout.write("\n");
}

try {
  const model = (await client.models.list()).data[0].id;
  const conversation = process.argv[2] ?? (await client.conversations.create()).id;
  await show(conversation);
  console.log(`[${model}; to go on later: node examples/chat.mjs ${conversation}]`);
  const lines = readline.createInterface({ input: process.stdin, output: process.stdout, terminal: false });
  for await (const line of lines) {
    if (!line.trim()) continue;
    try {
      await answer(model, conversation, line);
    } catch (error) {
      console.error(`[${error.message}]`);
    }
  }
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
