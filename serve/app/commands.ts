import { type Command, nonEmpty, say } from "../../core/platform/command_line.ts";
import type { UserAccount } from "./protocol.ts";
import type { Users } from "./users.ts";

const roles = ["admin", "member", "service"] as const;

/** `kiln user`. Everything is imported when it is needed: `--help` is instant. */
export function addUserCommands(program: Command): void {
  const user = program
    .command("user")
    .description("who may use a server that KILN_USERS=multi started, and their tokens")
    .examples("kiln user add cy", "kiln user add eve --role admin", "kiln user list")
    .addHelpText(
      "after",
      "\nA server that runs sees every change at once: DATABASE_URL or KILN_DATA_DIR says whose.\n",
    );
  user
    .command("add")
    .argument("<name>", "letters, digits and . _ @ + -", nonEmpty)
    .description("make a user, and print a token: it is shown this once")
    .choice("--role <role>", "what the user may do", roles, "member")
    .action((name: string, flags: { role: UserAccount["role"] }) =>
      withUsers(async (users) => {
        const { id } = await users.add(name, flags.role);
        process.stdout.write(`${(await users.addKey(id)).token}\n`);
      }),
    );
  user
    .command("list")
    .description("the users, their roles, and who is disabled")
    .option("--json", "print them as one JSON list")
    .action((flags: { json?: boolean }) =>
      withUsers(async (users) => {
        const all = await users.list();
        if (flags.json) process.stdout.write(`${JSON.stringify(all)}\n`);
        else for (const one of all) process.stdout.write(`${lineOf(one)}\n`);
        if (all.length === 0) say("there are no users yet: kiln user add NAME");
      }),
    );
  const toggle = (word: "disable" | "enable", description: string) =>
    user
      .command(word)
      .argument("<name>", "a user's name or id", nonEmpty)
      .description(description)
      .action((name: string) =>
        withUsers(async (users) => {
          process.stdout.write(`${lineOf(await users.change(name, { disabled: word === "disable" }))}\n`);
        }),
      );
  toggle("disable", "refuse a user's tokens from now on; what they wrote stays");
  toggle("enable", "take a user's tokens again");
  user
    .command("token")
    .argument("<name>", "a user's name or id", nonEmpty)
    .description("print another token of a user: it is shown this once, and revoked in the page's settings")
    .action((name: string) =>
      withUsers(async (users) => {
        process.stdout.write(`${(await users.addKey((await users.find(name)).id)).token}\n`);
      }),
    );
}

const lineOf = ({ name, role, created_at, disabled_at }: UserAccount) =>
  `${name.padEnd(24)} ${role.padEnd(8)} since ${new Date(created_at).toISOString().slice(0, 10)}${disabled_at === null ? "" : "  disabled"}`;

async function withUsers(act: (users: Users) => Promise<void>): Promise<void> {
  const { openStore } = await import("../store/index.ts");
  const { Users } = await import("./users.ts");
  const store = await openStore();
  try {
    await act(new Users(store));
  } finally {
    await store.close();
  }
}
