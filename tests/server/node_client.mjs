// The official client for JavaScript as a user of our server: node node_client.mjs FOLDER-OF-THE-PACKAGE URL KEY TASK
// Prints what it got as one JSON value.
import { createRequire } from "node:module";
import { join } from "node:path";

const [folder, baseURL, apiKey, task] = process.argv.slice(2);
const OpenAI = createRequire(join(folder, "package.json"))("openai");
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const { completions } = client.chat;
const asked = (content, more = {}) => ({ model: "scripted", messages: [{ role: "user", content }], ...more });
const tool = { type: "function", function: { name: "turn", parameters: { type: "object", properties: {} } } };

async function failure(work) {
  try {
    await work();
  } catch (error) {
    const { status, code, param, message, requestID } = error;
    return { kind: error.constructor.name, status, code, param, message, named: String(requestID).startsWith("req_") };
  }
  return null;
}

async function all(pages) {
  const found = [];
  for await (const item of pages) found.push(item);
  return found;
}

const tasks = {
  async whole() {
    const answer = await completions.create(asked("whole"));
    return { text: answer.choices[0].message.content, usage: answer.usage, named: answer._request_id.startsWith("req_") };
  },
  async streamed() {
    const chunks = await all(await completions.create(asked("streamed", { stream: true })));
    return chunks.map((chunk) => chunk.choices[0].delta.content ?? null);
  },
  async helped() {
    const pieces = [];
    const stream = completions.stream(asked("streamed")).on("content", (delta) => pieces.push(delta));
    return { pieces, text: await stream.finalContent() };
  },
  async tools() {
    const pieces = [];
    const stream = completions.stream(asked("tools", { tools: [tool] }));
    stream.on("tool_calls.function.arguments.delta", (event) => pieces.push(event.arguments_delta));
    const { choices } = await stream.finalChatCompletion();
    return { pieces, finish: choices[0].finish_reason, calls: choices[0].message.tool_calls };
  },
  async models() {
    const { id, object, owned_by } = await client.models.retrieve("a/b c");
    return { listed: (await all(client.models.list())).map((model) => model.id), one: { id, object, owned: Boolean(owned_by) } };
  },
  async stored() {
    const made = [];
    for (const kind of ["x", "y", "x"]) {
      made.push((await completions.create(asked(`stored ${kind}`, { store: true, metadata: { kind } }))).id);
    }
    const listed = (await all(completions.list({ limit: 1, order: "desc" }))).map((item) => made.indexOf(item.id));
    const filtered = (await all(completions.list({ metadata: { kind: "x" } }))).map((item) => made.indexOf(item.id));
    const read = await completions.retrieve(made[1]);
    const updated = await completions.update(made[1], { metadata: { kind: "z" } });
    const messages = (await all(completions.messages.list(made[0]))).map(({ role, content }) => ({ role, content }));
    const { deleted } = await completions.delete(made[0]);
    const gone = await failure(() => completions.retrieve(made[0]));
    return { listed, filtered, read: read.metadata, updated: updated.metadata, messages, deleted, gone: gone.kind };
  },
  async errors() {
    const stranger = new OpenAI({ baseURL, apiKey: "x".repeat(20), maxRetries: 0 });
    const came = [];
    const broken = await failure(async () => {
      for await (const chunk of await completions.create(asked("break", { stream: true }))) {
        came.push(chunk.choices[0].delta.content);
      }
    });
    return {
      wrong: await failure(() => completions.create(asked("whole", { temperature: "hot" }))),
      unknown: await failure(() => client.models.retrieve("other")),
      stranger: await failure(() => stranger.models.list()),
      failed: await failure(() => completions.create(asked("fail"))),
      broken: { came, ...broken },
    };
  },
  async abort() {
    const stream = await completions.create(asked("anything", { stream: true }));
    for await (const chunk of stream) {
      stream.controller.abort();
      return chunk.choices[0].delta.content;
    }
  },
};

const names = task === "all" ? Object.keys(tasks).filter((name) => name !== "abort") : [task];
const found = {};
for (const name of names) found[name] = await tasks[name]();
console.log(JSON.stringify(found));
