import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Contained, type Language, openContained, type Tier } from "../core/platform/contained.ts";
import { openAttacked } from "./support/attacked.ts";
import { undonePython } from "./support/undone_python.ts";

// Each program below attacks what a contained program must not reach. What stands in for the user's files is `outside`, for
// the network a server that counts its connections.

const hasPython = spawnSync("python3", ["--version"]).status === 0;
const hasNamespaces = spawnSync("unshare", ["--user", "--net", "true"]).status === 0;
const attacked = await openAttacked("secret");
const { outside, secret, port } = attacked;
afterAll(() => attacked.close());

type Attack = [name: string, outcomes: string, program: string];

const attacks: Record<Language, Attack[]> = {
  python: [
    ["write beside the scratch folder", "write", `open("../left", "w")`],
    ["write by descriptor", "write", `import os\nos.open("OUTSIDE/left", os.O_WRONLY | os.O_CREAT)`],
    [
      "write through a folder's descriptor",
      "read",
      `import os\nos.open("left", os.O_CREAT, dir_fd=os.open("OUTSIDE", 0))`,
    ],
    ["make a folder", "write", `import pathlib\npathlib.Path("OUTSIDE/left").mkdir()`],
    ["move out", "write", `import os\nopen("a", "w").close()\nos.rename("a", "OUTSIDE/left")`],
    ["remove", "read error", `import shutil\nshutil.rmtree("OUTSIDE")`],
    ["change rights", "write", `import os\nos.chmod("SECRET", 0)`],
    [
      "write through a symbolic link",
      "write",
      `import os\nos.symlink("OUTSIDE", "link")\nopen("link/left", "w")`,
    ],
    ["read through a hard link", "write", `import os\nos.link("SECRET", "a")\nprint(open("a").read())`],
    ["make a pipe", "write", `import os\nos.mkfifo("OUTSIDE/left")`],
    [
      "write as a database",
      "error",
      `import sqlite3\nsqlite3.connect("OUTSIDE/left").execute("create table a (b)")`,
    ],
    ["leave by chdir", "read", `import os\nos.chdir("OUTSIDE")\nopen("left", "w")`],
    ["read a file", "read", `print(open("SECRET").read())`],
    ["list the home folder", "read", `import os\nprint(os.listdir("USER"))`],
    ["read the environment", "error", `import os\nprint(os.environ["HOME"])`],
    ["connect", "network", `import socket\nsocket.create_connection(("127.0.0.1", PORT))`],
    [
      "connect and be told nothing",
      "network",
      `import socket\nsocket.socket().connect_ex(("127.0.0.1", PORT))`,
    ],
    ["fetch", "network", `import urllib.request\nurllib.request.urlopen("http://127.0.0.1:PORT")`],
    ["connect later", "network", `import asyncio\nasyncio.run(asyncio.open_connection("127.0.0.1", PORT))`],
    [
      "send a datagram",
      "network",
      `import socket\ns = socket.socket(type=socket.SOCK_DGRAM)\ns.sendto(b"a", ("127.0.0.1", PORT))`,
    ],
    ["ask for a name", "network", `import socket\nsocket.getaddrinfo("example.org", 80)`],
    ["listen", "network", `import socket\nsocket.socket().bind(("127.0.0.1", 0))`],
    ["fork bomb", "process", `import os\nwhile True: os.fork()`],
    ["run a command", "process", `import os\nos.system("touch OUTSIDE/left")`],
    [
      "a child that outlives",
      "process",
      `import subprocess\nsubprocess.Popen(["sleep", "98765"], start_new_session=True)`,
    ],
    ["a child without subprocess", "process", `import _posixsubprocess\n_posixsubprocess.fork_exec()`],
    [
      "a child by multiprocessing",
      "error process",
      `import multiprocessing as m\nm.get_context("spawn").Process(target=print).start()`,
    ],
    [
      "become another program",
      "process",
      `import os\nos.execv("/bin/sh", ["sh", "-c", "touch OUTSIDE/left"])`,
    ],
    ["native code", "error", `import ctypes\nctypes.CDLL(None).fork()`],
    ["kill the runner", "process", `import os\nos.kill(os.getppid(), 9)`],
    [
      "raise its own limits",
      "process",
      `import resource\nresource.setrlimit(resource.RLIMIT_DATA, (-1, -1))`,
    ],
    [
      "a thread that outlives",
      "passed",
      `import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()`,
    ],
    ["memory at once", "memory", `a = bytearray(10 ** 10)`],
    ["memory in pieces", "memory", `a = []\nwhile True: a.append(bytearray(10 ** 7))`],
    ["an endless loop", "timeout", `while True: pass`],
    ["waiting", "timeout", `import time\ntime.sleep(99)`],
    ["endless output", "timeout", `while True: print("a" * 10000)`],
    ["a huge file", "error", `f = open("a", "wb")\nfor _ in range(80): f.write(bytes(10 ** 6))`],
    ["read the keyboard", "error", `input()`],
    ["leave as if it had passed", "exit", `import os\nos._exit(0)`],
    ["catch everything", "exit", `try:\n    raise SystemExit(0)\nexcept ValueError: pass`],
    ["a crash", "exit", `import os\nos.abort()`],
  ],
  javascript: [
    ["write beside the scratch folder", "write", `fs.writeFileSync("../left", "")`],
    ["write where the name goes on", "write", `fs.writeFileSync(process.cwd() + "x", "")`],
    ["write by stream", "write", `fs.createWriteStream("OUTSIDE/left")`],
    ["write by promise", "write", `fs.promises.writeFile("OUTSIDE/left", "")`],
    ["make a folder", "write", `fs.mkdirSync("OUTSIDE/left")`],
    ["move out", "write", `fs.writeFileSync("a", ""); fs.renameSync("a", "OUTSIDE/left")`],
    ["remove", "read", `fs.rmSync("OUTSIDE", { recursive: true })`],
    ["change rights", "write", `fs.chmodSync("SECRET", 0)`],
    [
      "write through a symbolic link",
      "write",
      `fs.symlinkSync("OUTSIDE", "link"); fs.writeFileSync("link/left", "")`,
    ],
    [
      "leave by a relative link",
      "write",
      `fs.symlinkSync("../..", "link"); fs.writeFileSync("link/tmp/left", "")`,
    ],
    [
      "read through a hard link",
      "read write",
      `fs.linkSync("SECRET", "a"); console.log(fs.readFileSync("a", "utf8"))`,
    ],
    ["read a file", "read", `console.log(fs.readFileSync("SECRET", "utf8"))`],
    ["read a file as a module", "read error", `require("SECRET")`],
    ["list the home folder", "read", `console.log(fs.readdirSync("USER"))`],
    ["read the environment", "assertion", `assert(process.env.HOME)`],
    ["write a report", "error", `process.report.writeReport("OUTSIDE/left")`],
    ["connect", "network", `net.connect(PORT, "127.0.0.1")`],
    ["fetch", "network", `fetch("http://127.0.0.1:PORT")`],
    ["ask by http", "network", `require("http").get("http://127.0.0.1:PORT")`],
    ["ask by http2", "network", `require("http2").connect("http://127.0.0.1:PORT")`],
    ["connect in secret", "network", `require("tls").connect(PORT, "127.0.0.1")`],
    [
      "a module's own import",
      "network error",
      `import("node:net").then((net) => net.connect(PORT, "127.0.0.1"))`,
    ],
    ["send a datagram", "network", `dgram.createSocket("udp4").send("a", PORT, "127.0.0.1")`],
    ["ask for a name", "network", `dns.lookup("example.org", () => {})`],
    ["ask for a name by promise", "network", `new dns.promises.Resolver().resolve4("example.org")`],
    ["listen", "network", `net.createServer().listen(0)`],
    ["fork bomb", "process", `for (;;) child_process.fork("-e")`],
    ["run a command", "process", `child_process.execSync("touch OUTSIDE/left")`],
    ["a child that outlives", "process", `child_process.spawn("sleep", ["98765"], { detached: true })`],
    ["a thread", "process", `new worker_threads.Worker("for(;;);", { eval: true })`],
    ["a cluster", "process", `cluster.setupPrimary({ exec: "a.js" }); cluster.fork()`],
    ["native code", "process", `process.dlopen({ exports: {} }, "OUTSIDE/a.node")`],
    ["the engine's own parts", "process", `process.binding("spawn_sync")`],
    ["kill the runner", "process", `process.kill(process.ppid, 9)`],
    ["memory at once", "memory", `new ArrayBuffer(8e9)`],
    ["memory in pieces", "memory", `const a = []; for (;;) a.push(Buffer.alloc(5e7, 1))`],
    ["an endless loop", "timeout", `for (;;);`],
    ["waiting", "timeout", `setInterval(() => {}, 1000)`],
    ["endless output", "timeout", `for (;;) fs.writeSync(1, "a".repeat(10000))`],
    ["read the keyboard", "assertion", `assert(fs.readFileSync(0, "utf8"))`],
    ["leave as if it had passed", "exit", `process.exit(0)`],
    ["a crash", "exit", `process.abort()`],
    ["an error that comes later", "error", `setTimeout(() => { throw new Error() }, 1)`],
    ["an assertion of the console", "assertion", `console.assert(1 === 2, "no")`],
  ],
};

const fill = (program: string) =>
  program
    .replaceAll("OUTSIDE", outside)
    .replaceAll("SECRET", secret)
    .replaceAll("USER", homedir())
    .replaceAll("PORT", String(port));

for (const language of ["javascript", "python"] as const)
  for (const tier of ["namespaces", "interpreter"] as const) {
    const missing =
      (language === "python" && !hasPython) || (tier === "namespaces" && !hasNamespaces)
        ? " (not on this machine)"
        : "";
    describe.skipIf(missing)(`${language} in the tier ${tier}${missing}`, () => {
      let contained: Contained;
      beforeAll(async () => {
        contained = await openContained(language, [tier as Tier]);
      });

      it.concurrent.each(attacks[language])("%s", async (_, outcomes, program) => {
        const slow = outcomes === "memory" ? 20 : outcomes === "timeout" ? 0.3 : 5;
        const result = await contained.run(fill(program), {
          seconds: slow,
          memoryBytes: 2 ** 28,
          outputBytes: 1000,
        });
        expect(outcomes.split(" "), JSON.stringify(result)).toContain(result.outcome);
        expect(result.output).not.toContain("secret");
        expect(result.output.length).toBeLessThanOrEqual(2000);
      });

      it("leaves nothing behind", () => {
        expect(attacked.connections()).toBe(0);
        expect(readdirSync(outside)).toEqual(["secret.txt"]);
        expect(readFileSync(secret, "utf8")).toBe("secret");
        expect(["../left", "kiln-probe", "left"].filter((name) => existsSync(join(tmpdir(), name)))).toEqual(
          [],
        );
        expect(processes()).not.toContain("98765");
      });
    });
  }

describe.skipIf(!hasPython || !hasNamespaces)("the tier namespaces holds where the guard is undone", () => {
  const programs: Attack[] = [
    ["write outside", "FileNotFoundError", `open("OUTSIDE/left", "w")`],
    ["write into the system", "Read-only file system", `open("/usr/left", "w")`],
    ["read a file", "FileNotFoundError", `print(open("SECRET").read())`],
    [
      "connect",
      "ConnectionRefusedError|unreachable",
      `import socket\nsocket.create_connection(("127.0.0.1", PORT))`,
    ],
    ["see processes", "FileNotFoundError", `print(os.listdir("/proc"))`],
    ["end the runner", "ProcessLookupError|passed", `os.kill(RUNNER, 9)`],
    [
      "a child that outlives",
      "passed",
      `if os.fork() == 0:\n    os.setsid()\n    os.closerange(0, 9)\n    os.execv("/bin/sleep", ["sleep", "98765"])`,
    ],
  ];
  it.each(programs)("%s", async (_, ends, program) => {
    const contained = await openContained("python", ["namespaces"]);
    const own = fill(program).replaceAll("RUNNER", String(process.pid));
    const { outcome, message, output } = await contained.run(undonePython + own);
    expect(`${outcome}: ${message}`).toMatch(new RegExp(ends));
    expect(output).not.toContain("secret");
    expect(attacked.connections()).toBe(0);
    expect(readdirSync(outside)).toEqual(["secret.txt"]);
    expect(processes()).not.toContain("98765");
  });
});

/** The command lines of all processes. */
function processes(): string {
  return spawnSync("ps", ["-eo", "args"], { encoding: "utf8" }).stdout ?? "";
}
