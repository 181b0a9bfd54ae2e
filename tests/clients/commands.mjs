// The command loop of the TypeScript clients: commands on stdin, results and notifications on stdout, as JSON lines.
import { createInterface } from "node:readline";

export const config = JSON.parse(process.argv[2]);

export const writeLine = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

// No debounce and no refresh: each notification is reported, and tools are listed only on command.
export const listChanged = {
  tools: { autoRefresh: false, debounceMs: 0, onChanged: () => writeLine({ notification: "tools/list_changed" }) },
};

export async function runCommands(client) {
  for await (const line of createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    if (command.list) {
      writeLine({ tools: (await client.listTools()).tools });
    } else {
      writeLine(await client.callTool(command.call).then((result) => ({ result }), toError));
    }
  }
  await client.close();
}

function toError(error) {
  if (typeof error.code !== "number") throw error;
  return { error: { code: error.code, message: error.message } };
}
