// BullMQ on a Redis of its own: how many jobs a second it takes in, and how many it does, each of them nothing.
//   node bullmq_peer.mjs PORT submit|work SECONDS|JOBS
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.env.BULLMQ_FOLDER, "package.json"));
const { Queue, Worker } = require("bullmq");
const Redis = require("ioredis");

const [port, what, amount] = process.argv.slice(2);
const AT_ONCE = 64;
const input = { messages: [{ role: "user", content: "Say something." }] };
const connect = () => new Redis({ host: "127.0.0.1", port: Number(port), maxRetriesPerRequest: null });

async function submit(queue, goesOn) {
  let count = 0;
  const one = async () => {
    while (goesOn(count)) {
      count += 1;
      await queue.add("chat", input);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, one));
  return count;
}

const queue = new Queue("bench", { connection: connect() });
await queue.waitUntilReady();
if (what === "submit") {
  const started = performance.now();
  const until = started + Number(amount) * 1000;
  const count = await submit(queue, () => performance.now() < until);
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
