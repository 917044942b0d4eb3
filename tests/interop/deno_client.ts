// A client of v0.8 on Deno's QUIC, which is quinn: `deno run ... deno_client.ts HOST PORT`.
// Prints one JSON object: what was answered to each question.

type Value = null | boolean | number | string | Uint8Array | Value[] | { [key: string]: Value };

const NODE_ID = new Uint8Array(32).fill(0x61);
const KEY = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode("interop.stored")));

// -- MessagePack as v0.8 writes it: every text is bin -----------------------------------------------------------

function packed(value: Value): number[] {
  if (value === null) return [0xc0];
  if (typeof value === "boolean") return [value ? 0xc3 : 0xc2];
  if (typeof value === "number") {
    if (value >= 0 && value <= 0x7f) return [value];
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, BigInt(value));
    return [0xcf, ...bytes];
  }
  if (typeof value === "string") value = new TextEncoder().encode(value);
  if (value instanceof Uint8Array) {
    const size = value.length;
    return [...(size < 256 ? [0xc4, size] : [0xc5, size >> 8, size & 0xff]), ...value];
  }
  if (Array.isArray(value)) return [0x90 + value.length, ...value.flatMap(packed)];
  const entries = Object.entries(value);
  return [0x80 + entries.length, ...entries.flatMap(([key, item]) => [...packed(key), ...packed(item)])];
}

class Reader {
  place = 0;
  constructor(readonly data: Uint8Array) {}

  take(count: number): Uint8Array {
    const piece = this.data.subarray(this.place, this.place + count);
    if (piece.length !== count) throw new Error("the value ends too early");
    this.place += count;
    return piece;
  }

  number(count: number): number {
    return this.take(count).reduce((sum, byte) => sum * 256 + byte, 0);
  }

  value(): Value {
    const first = this.number(1);
    if (first <= 0x7f) return first;
    if (first >= 0xe0) return first - 256;
    if (first === 0xc0) return null;
    if (first === 0xc2 || first === 0xc3) return first === 0xc3;
    if (first >= 0xcc && first <= 0xcf) return this.number(1 << (first - 0xcc));
    if (first >= 0xc4 && first <= 0xc6) return this.take(this.number(1 << (first - 0xc4)));
    const isLong = first === 0xdc || first === 0xde;
    const count = isLong ? this.number(2) : first & 0x0f;
    if ((first >= 0x90 && first <= 0x9f) || first === 0xdc) return Array.from({ length: count }, () => this.value());
    if (!((first >= 0x80 && first <= 0x8f) || first === 0xde)) throw new Error(`not what v0.8 reads: ${first}`);
    const found: { [key: string]: Value } = {};
    for (let index = 0; index < count; index++) {
      const key = this.value();
      if (!(key instanceof Uint8Array)) throw new Error("a key that is no bin");
      found[new TextDecoder().decode(key)] = this.value();
    }
    return found;
  }
}

function frame(number: number, body: Value): Uint8Array {
  const payload = packed(body);
  const bytes = new Uint8Array([1, number, 0, 0, 0, 0, 0, 0, ...payload]);
  new DataView(bytes.buffer).setUint32(4, payload.length);
  return bytes;
}

// For JSON: texts as they are, other bytes in hexadecimal.
function shown(value: Value): unknown {
  if (value instanceof Uint8Array) {
    const isText = value.every((byte) => byte >= 0x20 && byte <= 0x7e);
    return isText ? new TextDecoder().decode(value) : [...value].map((b) => b.toString(16).padStart(2, "0")).join("");
  }
  if (Array.isArray(value)) return value.map(shown);
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, shown(item)]));
  }
  return value;
}

// -- the session ----------------------------------------------------------------------------------------------------

const QUESTIONS: [string, number, Value][] = [
  ["CONNECT", 0x01, {
    version: "1.0",
    node_id: NODE_ID,
    realm_id: "org.example.interop",
    capabilities: ["pubsub", "rpc"],
    endpoint: "https://localhost:9443",
  }],
  ["PING", 0x03, { timestamp: 1234567890123 }],
  ["FIND_NODE", 0x40, { type: "find_node", target: NODE_ID }],
  ["STORE", 0x42, {
    type: "store",
    key: KEY,
    value: { node_id: NODE_ID, endpoint: "https://localhost:9443", metadata: {}, ttl: 300 },
  }],
  ["FIND_VALUE", 0x43, { type: "find_value", key: KEY }],
  ["CALL", 0x20, {
    call_id: new Uint8Array(16).fill(0x63),
    procedure: "interop.add",
    args: '{"a":2,"b":3}',
    timeout: 5000,
  }],
];
const PUBLISH = frame(0x10, {
  topic: "interop.topic",
  payload: '{"celsius":23.5}',
  qos: 0,
  retain: false,
  message_id: new Uint8Array(16).fill(0x6d),
});

const connection = await Deno.connectQuic({
  hostname: Deno.args[0],
  port: Number(Deno.args[1]),
  alpnProtocols: ["macula"],
  serverName: "localhost",
});

async function said(bytes: Uint8Array): Promise<Deno.QuicBidirectionalStream> {
  const stream = await connection.createBidirectionalStream();
  const writer = stream.writable.getWriter();
  await writer.write(bytes);
  writer.releaseLock();
  return stream;
}

// The answer, which comes on the stream of the question.
async function asked(number: number, body: Value): Promise<unknown> {
  const stream = await said(frame(number, body));
  let data = new Uint8Array();
  for await (const chunk of stream.readable) {
    data = new Uint8Array([...data, ...chunk]);
    if (data.length < 8) continue;
    const length = new DataView(data.buffer).getUint32(4);
    if (data.length < 8 + length) continue;
    const reader = new Reader(data.subarray(8));
    const value = reader.value();
    if (reader.place !== length || data.length !== 8 + length) throw new Error("not one frame");
    return { type: data[1], body: shown(value) };
  }
  throw new Error("the stream ended without an answer");
}

const answers: { [name: string]: unknown } = {};
for (const [name, number, body] of QUESTIONS) answers[name] = await asked(number, body);
await said(PUBLISH);
answers["last PING"] = await asked(0x03, { timestamp: 7 }); // answered behind the message, so that it has arrived
await said(frame(0x02, { reason: "normal", message: "bye" }));
await new Promise((done) => setTimeout(done, 100)); // as v0.8 does, so that it is sent
connection.close({ closeCode: 0, reason: "" });
console.log(JSON.stringify(answers));
Deno.exit(0);
