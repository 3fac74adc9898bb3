// The safetensors format: the length of a header, the header as JSON, and the numbers, little-endian.

/** A tensor of float32. */
export interface FloatTensor {
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

/** Tensors by name, in their order. */
export type Tensors = Map<string, FloatTensor>;

interface Entry {
  readonly dtype: string;
  readonly shape: number[];
  readonly data_offsets: [number, number];
}

const METADATA = "__metadata__";

/** Reads tensors of floats; half-precision ones are widened. */
export function readSafetensors(bytes: Uint8Array): Tensors {
  const refuse = (why: string) => new Error(`not a safetensors file: ${why}`);
  if (bytes.length < 8) throw refuse(`it has ${bytes.length} bytes`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = Number(view.getBigUint64(0, true));
  if (length > bytes.length - 8) throw refuse(`the header ends at byte ${length + 8} of ${bytes.length}`);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length))) as Record<string, Entry>;
  const tensors: Tensors = new Map();
  for (const [name, entry] of Object.entries(header)) {
    if (name === METADATA) continue;
    const [start, end] = entry.data_offsets;
    const count = entry.shape.reduce((product, axis) => product * axis, 1);
    const from = 8 + length + start;
    if (!(start <= end) || 8 + length + end > bytes.length) throw refuse(`tensor ${name} ends behind the file`);
    tensors.set(name, { shape: entry.shape, data: numbers(view, from, end - start, count, entry.dtype, name) });
  }
  return tensors;
}

function numbers(view: DataView, from: number, size: number, count: number, dtype: string, name: string): Float32Array {
  const width = dtype === "F32" ? 4 : dtype === "F16" || dtype === "BF16" ? 2 : dtype === "F64" ? 8 : 0;
  if (width === 0) throw new Error(`tensor ${name}: expected float32, float16, bfloat16 or float64, found ${dtype}`);
  if (size !== width * count) throw new Error(`tensor ${name}: expected ${width * count} bytes, found ${size}`);
  const read = (at: number): number => {
    if (dtype === "F32") return view.getFloat32(at, true);
    if (dtype === "F64") return view.getFloat64(at, true);
    return dtype === "F16" ? half(view.getUint16(at, true)) : brain(view.getUint16(at, true));
  };
  return Float32Array.from({ length: count }, (_, at) => read(from + width * at));
}

/** IEEE 754's binary16. */
function half(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 0x1f) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** The upper half of a float32. */
function brain(bits: number): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, bits << 16);
  return view.getFloat32(0);
}

/** Writes tensors as float32. */
export function writeSafetensors(tensors: Tensors): Uint8Array {
  const header: Record<string, unknown> = { [METADATA]: { format: "pt" } };
  let end = 0;
  for (const [name, { shape, data }] of tensors) {
    header[name] = { dtype: "F32", shape, data_offsets: [end, end + 4 * data.length] };
    end += 4 * data.length;
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const start = 8 + Math.ceil(text.length / 8) * 8;
  const bytes = new Uint8Array(start + end);
  bytes.fill(0x20, 8, start);
  bytes.set(text, 8);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(start - 8), true);
  let at = start;
  for (const { data } of tensors.values()) {
    for (const value of data) {
      view.setFloat32(at, value, true);
      at += 4;
    }
  }
  return bytes;
}
