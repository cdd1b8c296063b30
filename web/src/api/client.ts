import type { components, operations } from "./schema";

export type Schemas = components["schemas"];
export type Job = Schemas["Job"];
export type FileInfo = Schemas["FileInfo"];
export type FileSystem = Schemas["FileSystem"];
export type Identity = Schemas["Identity"];
export type Workspace = Schemas["Workspace"];
export type AccessToken = Schemas["AccessToken"];
export type ClusterStatus = Schemas["ClusterStatus"];

/** The JSON that an operation answers with. */
type Answer<K extends keyof operations> = operations[K]["responses"] extends infer R
  ? R extends { 200: { content: { "application/json": infer B } } }
    ? B
    : R extends { 202: { content: { "application/json": infer B } } }
      ? B
      : void
  : void;

type Body<K extends keyof operations> = operations[K] extends { requestBody: { content: { "application/json": infer B } } } ? B : undefined;

/** A refusal of the API: what happened, to what, what to do next. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly kind: string,
    detail: string,
  ) {
    super(detail);
  }
}

export const base = "/api/v1";

/** What a refused answer says, whatever it is. */
export function refusal(status: number, body: string): Refusal {
  try {
    const p = JSON.parse(body) as { kind?: string; detail?: string; title?: string; errors?: { message?: string; location?: string }[] };
    const more = (p.errors ?? []).map((e) => `${(e.location ?? "").replace(/^body\./, "")}: ${e.message}`);
    const text = [p.detail ?? p.title ?? `HTTP ${status}`, ...more].join("; ");
    return new Refusal(status, p.kind ?? "", text);
  } catch {
    return new Refusal(status, "", status === 0 ? "The gateway does not answer." : `The gateway answers ${status} without a reason.`);
  }
}

let onLoggedOut: () => void = () => {};

/** Has fn called when an answer says that nobody is logged in. */
export function whenLoggedOut(fn: () => void) {
  onLoggedOut = fn;
}

/** A request to the API; a refusal is thrown. Address is below base. */
export async function request(method: string, address: string, init: RequestInit = {}): Promise<Response> {
  let r: Response;
  try {
    r = await fetch(base + address, { ...init, method, credentials: "same-origin", redirect: "error" });
  } catch (e) {
    if (init.signal?.aborted) throw e;
    throw new Refusal(0, "", "The gateway does not answer. Is it running, and is this machine connected?");
  }
  if (r.ok) return r;
  const err = refusal(r.status, await r.text().catch(() => ""));
  if (r.status === 401 && address !== "/session") onLoggedOut();
  throw err;
}

/** Calls an operation by its id, method and address. */
export async function call<K extends keyof operations>(_id: K, method: string, address: string, body?: Body<K>, signal?: AbortSignal): Promise<Answer<K>> {
  const init: RequestInit = { signal };
  if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers = { "Content-Type": "application/json" };
  }
  const r = await request(method, address, init);
  const text = await r.text();
  return (text === "" ? undefined : JSON.parse(text)) as Answer<K>;
}

const enc = encodeURIComponent;

/** Where a file system is. */
export interface Place {
  workspace: string;
  fs: string;
}

export const fsAddress = (at: Place) => `/filesystems/${enc(at.workspace)}/${enc(at.fs)}`;

/** The address of a path, which is percent-encoded (path.ts); more are further parameters. */
export function fileAddress(at: Place, sub: string, path: string, more: Record<string, string> = {}): string {
  const rest = Object.entries(more).map(([k, v]) => `&${k}=${k === "to" ? v : enc(v)}`);
  return `/files/${enc(at.workspace)}/${enc(at.fs)}${sub}?path=${path}${rest.join("")}`;
}

export const uploadAddress = (at: Place, path: string, more: Record<string, string>) =>
  `${base}/uploads/${enc(at.workspace)}/${enc(at.fs)}?` + [`path=${path}`, ...Object.entries(more).map(([k, v]) => `${k}=${enc(v)}`)].join("&");
