// PyTorch on the processor, eager, in f32: what somebody without a GPU would fine-tune and generate with. A Python process does
// the work.
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export async function open() {
  const script = fileURLToPath(new URL("torch_work.py", import.meta.url));
  const stdio = ["pipe", "pipe", "pipe"];
  const python = spawn(process.env.KILN_PYTHON ?? "python3", [script], { stdio });
  let complaint = "";
  let cpu_ms = 0;
  python.stderr.on("data", (text) => {
    complaint = (complaint + text).slice(-2000);
  });
  const lines = createInterface({ input: python.stdout })[Symbol.asyncIterator]();
  const next = async () => {
    const { value, done } = await lines.next();
    if (done) throw new Error(complaint.trim().split("\n").at(-1) || "Python ended");
    const answer = JSON.parse(value);
    cpu_ms = answer.cpu_ms ?? 0;
    return answer;
  };
  const ask = (question) => {
    python.stdin.write(`${JSON.stringify(question)}\n`);
    return next();
  };
  const { version } = await next();
  const work =
    (op) =>
    async (...sizes) => {
      await ask({ op, sizes: sizes.slice(0, -1), file: sizes.at(-1) });
      return (times) => ask({ times }).then(() => undefined);
    };
  return {
    version,
    native: true,
    cpuMs: () => cpu_ms,
    ops: { classify: work("classify"), lora: work("lora"), streams: work("streams") },
  };
}
