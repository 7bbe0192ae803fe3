// Chains of hashes in three worker threads, timers, a child process and files, at least until there are go-1, go-2 and
// go-3.
const { Worker, isMainThread, parentPort, workerData } = require("node:worker_threads");
const { createHash } = require("node:crypto");
const { execFile } = require("node:child_process");
const { promisify } = require("node:util");
const fs = require("node:fs");
const { setTimeout: sleep } = require("node:timers/promises");

function chain(text, length) {
  for (let i = 0; i < length; i++) text = createHash("sha256").update(text).digest("hex");
  return text;
}

async function main() {
  let ticks = 0;
  const timer = setInterval(() => ticks++, 10);
  const workers = [0, 1, 2].map((number) => new Worker(__filename, { workerData: number }));
  const answer = (worker, question) =>
    new Promise((resolve) => worker.once("message", resolve) && worker.postMessage(question));
  for (let part = 1; part <= 3; part++) {
    const sums = await Promise.all(workers.map((worker) => answer(worker, `part ${part}`)));
    do {
      await sleep(20);
      const again = await answer(workers[0], "nothing new");
      if (again !== chain("nothing new 0", 2000)) throw new Error("another sum");
    } while (!fs.existsSync(`go-${part}`));
    await fs.promises.writeFile(`sums-${part}`, sums.join("\n"));
    const { stdout } = await promisify(execFile)("wc", ["-c", `sums-${part}`]);
    console.log(part, sums, stdout.trim());
  }
  if (ticks < 3) throw new Error("the timer stands still");
  clearInterval(timer);
  await Promise.all(workers.map((worker) => worker.terminate()));
}

if (isMainThread) main();
else parentPort.on("message", (text) => parentPort.postMessage(chain(`${text} ${workerData}`, 2000)));
