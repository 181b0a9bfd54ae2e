// The one loop of the TypeScript clients: commands as JSON lines in, answers and what was heard as JSON lines out.
import { createInterface } from "node:readline";

export const config = JSON.parse(process.argv[2]);

export const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

// No debounce and no refresh: each notification counts, and lists are asked for by command alone.
export const listChanged = {
  tools: { autoRefresh: false, debounceMs: 0, onChanged: () => say({ heard: "tools/list_changed" }) },
};

export async function obey(client) {
  for await (const line of createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    if (command.list) {
      say({ tools: (await client.listTools()).tools });
    } else {
      say(await client.callTool(command.call).then((result) => ({ result }), refusal));
    }
  }
  await client.close();
}

function refusal(error) {
  if (typeof error.code !== "number") throw error;
  return { error: { code: error.code, message: error.message } };
}
