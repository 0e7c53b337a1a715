// Call tools with the TypeScript client, and print the answers: see python_client.py.
//
//     node typescript_client.mjs NODE_MODULES CALLS.json COMMAND...
//
// NODE_MODULES holds @modelcontextprotocol/sdk, version 1, or @modelcontextprotocol/client, 2.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, file, command, ...args] = process.argv.slice(2);
const require = createRequire(join(modules, "index.js"));
const load = (name) => import(pathToFileURL(require.resolve(name)));
const isFirst = existsSync(join(modules, "@modelcontextprotocol", "sdk"));
const { Client } = await load(isFirst ? "@modelcontextprotocol/sdk/client/index.js" : "@modelcontextprotocol/client");
const { StdioClientTransport } = await load(isFirst ? "@modelcontextprotocol/sdk/client/stdio.js" : "@modelcontextprotocol/client/stdio");
const client = new Client({ name: "typescript", version: "0" }, { capabilities: {} });
const env = { HOME: process.env.HOME, PATH: process.env.PATH };
await client.connect(new StdioClientTransport({ command, args, env }));
await client.listTools(); // It keeps the output schemas, and checks answers with them.
let seen = "";
const fill = (given) => {
  let text = JSON.stringify(given);
  const ids = { $task: [...seen.matchAll(/(TASK-[\w-]+)/g)], $agent: [...seen.matchAll(/"agent_id": ?"([\w-]+)/g)] };
  for (const [word, found] of Object.entries(ids)) if (found.length) text = text.replaceAll(word, found.at(-1)[1]);
  return JSON.parse(text);
};
for (const [name, given] of JSON.parse(readFileSync(file))) {
  let answer;
  try {
    const result = await client.callTool({ name, arguments: fill(given) });
    const text = result.content.map((block) => block.text).join("\n");
    answer = { text, error: !!result.isError, values: result.structuredContent ?? null };
    seen += text;
  } catch (error) {
    answer = { raises: String(error.message).slice(0, 300) };
  }
  console.log(JSON.stringify(answer));
}
await client.close();
