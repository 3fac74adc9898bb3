// Files: in memory, in a folder of this machine, or at an address.

/** Files in memory, by name. */
export type Files = Readonly<Record<string, Uint8Array>>;

/** Where files come from: files in memory, or the path (node) or address of a folder. */
export type Source = Files | string | URL;

/** A folder that is read from. */
export interface Folder {
  /** What errors name. */
  readonly name: string;
  /** A file's bytes; undefined if it is not there. */
  read(file: string): Promise<Uint8Array | undefined>;
}

/** Whether this is node, which has files. */
export function isNode(): boolean {
  return typeof process !== "undefined" && process.versions?.node !== undefined;
}

/** The folder that a source is. Each file is read once. */
export function folderOf(source: Source): Folder {
  const { name, read } = reader(source);
  const files = new Map<string, Promise<Uint8Array | undefined>>();
  return {
    name,
    read(file) {
      const known = files.get(file) ?? read(file);
      files.set(file, known);
      return known;
    },
  };
}

function reader(source: Source): Folder {
  if (typeof source !== "string" && !(source instanceof URL)) {
    return { name: "these files", read: async (file) => source[file] };
  }
  const name = String(source);
  if (isNode() && !/^https?:/.test(name)) return { name, read: (file) => ofDisk(source, file) };
  const base = new URL(name.endsWith("/") ? name : `${name}/`, globalThis.location?.href);
  return { name, read: (file) => ofAddress(new URL(file, base)) };
}

async function ofDisk(folder: string | URL, file: string): Promise<Uint8Array | undefined> {
  const [{ readFile }, { join }, { fileURLToPath }] = await Promise.all([import("node:fs/promises"), import("node:path"), import("node:url")]);
  const path = folder instanceof URL || folder.startsWith("file:") ? fileURLToPath(folder) : folder;
  try {
    return await readFile(join(path, file));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

async function ofAddress(address: URL): Promise<Uint8Array | undefined> {
  const answer = await fetch(address);
  if (answer.status === 404) return undefined;
  if (!answer.ok) throw new Error(`${address}: ${answer.status} ${answer.statusText}`);
  return new Uint8Array(await answer.arrayBuffer());
}

/** A file that must be there. */
export async function needed(folder: Folder, file: string, hint: string): Promise<Uint8Array> {
  const bytes = await folder.read(file);
  if (bytes === undefined) throw new Error(`no file ${file} in ${folder.name}\nhint: ${hint}`);
  return bytes;
}

/** A JSON file that must be there. */
export async function json<T>(folder: Folder, file: string, hint: string): Promise<T> {
  const text = new TextDecoder().decode(await needed(folder, file, hint));
  try {
    return JSON.parse(text) as T;
  } catch (why) {
    throw new Error(`${file} in ${folder.name}: not JSON: ${(why as Error).message}`);
  }
}

/** The bytes of a value as JSON. */
export function jsonBytes(value: unknown): Uint8Array {
  return new TextEncoder().encode(`${JSON.stringify(value, null, 2)}\n`);
}
