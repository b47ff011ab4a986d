// BullMQ on a Redis of its own: how many jobs a second it takes in, and how many it does, each of them nothing.
//   node bullmq_peer.mjs PORT submit|bulk|work SECONDS|SECONDS|JOBS
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.env.BULLMQ_FOLDER, "package.json"));
const { Queue, Worker } = require("bullmq");
const Redis = require("ioredis");

const [port, what, amount] = process.argv.slice(2);
const AT_ONCE = 64;
const input = { messages: [{ role: "user", content: "Say something." }] };
const connect = () => new Redis({ host: "127.0.0.1", port: Number(port), maxRetriesPerRequest: null });

// Each call hands in as many jobs as `batch` has, `callers` calls at once.
async function submit(queue, goesOn, callers = AT_ONCE, batch = 1) {
  const jobs = Array.from({ length: batch }, () => ({ name: "chat", data: input }));
  let count = 0;
  const one = async () => {
    while (goesOn(count)) {
      count += batch;
      await (batch === 1 ? queue.add("chat", input) : queue.addBulk(jobs));
    }
  };
  await Promise.all(Array.from({ length: callers }, one));
  return count;
}

const queue = new Queue("bench", { connection: connect() });
await queue.waitUntilReady();
if (what === "submit" || what === "bulk") {
  const started = performance.now();
  const until = started + Number(amount) * 1000;
  const shape = what === "bulk" ? [4, 500] : [];
  const count = await submit(queue, () => performance.now() < until, ...shape);
  console.log(count / ((performance.now() - started) / 1000));
} else {
  const wanted = Number(amount);
  let done = 0;
  const started = performance.now();
  const finished = new Promise((resolve) => {
    const worker = new Worker("bench", async () => null, { connection: connect(), concurrency: AT_ONCE });
    worker.on("completed", () => (done += 1) === wanted && resolve());
  });
  await submit(queue, (count) => count < wanted);
  await finished;
  console.log(wanted / ((performance.now() - started) / 1000));
}
process.exit(0);
