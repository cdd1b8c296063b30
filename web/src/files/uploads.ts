import { useSyncExternalStore } from "react";
import * as tus from "tus-js-client";
import { refusal, request, fileAddress, uploadAddress, type Place } from "../api/client";
import { encodeName, join, shownPath } from "../path";

// Uploads outlive the page that began them: they are one list for the whole dashboard. A file is sent by the tus protocol. What came before the connection broke is not sent again:
// tus-js-client keeps the address of the upload (which is worth nothing without the token) in the browser's storage until the file is complete, so that choosing the
// same file again goes on, even after the browser was closed.

const parallel = 3;
const retryDelays = [0, 1000, 3000, 5000, 10_000, 20_000, 30_000];
/**
 * A file of at most this many bytes is sent by the request that begins its upload. What is larger is not: the address of the upload is in the answer, and before that is known
 * there is nothing to go on with, nor to cancel.
 */
const inOneRequest = 8 << 20;
/** The list is told of progress at most this often. */
const tellEvery = 120;

export type State = "waiting" | "sending" | "paused" | "conflict" | "failed" | "done" | "canceled";

export interface Upload {
  id: number;
  at: Place;
  path: string;
  file: File;
  sent: number;
  state: State;
  error: string;
  replace: boolean;
  tus?: tus.Upload;
}

/** A file and where it goes, below the directory that was chosen. */
export interface Chosen {
  file: File;
  parts: string[];
}

type Listener = () => void;

class Uploads {
  private list: Upload[] = [];
  private next = 1;
  private listeners = new Set<Listener>();
  private finished = new Set<(u: Upload) => void>();
  private timer: ReturnType<typeof setTimeout> | undefined;
  private view: { list: Upload[] } = { list: [] };

  subscribe = (fn: Listener) => {
    this.listeners.add(fn);
    return () => this.listeners.delete(fn);
  };
  snapshot = () => this.view;

  /** Has fn called with each that is complete. */
  onDone(fn: (u: Upload) => void) {
    this.finished.add(fn);
    return () => void this.finished.delete(fn);
  }

  private tell() {
    this.timer ??= setTimeout(() => {
      this.timer = undefined;
      this.view = { list: this.list.slice() };
      this.listeners.forEach((fn) => fn());
    }, tellEvery);
  }

  add(at: Place, dir: string, files: Chosen[], replace = false) {
    for (const f of files) {
      const path = f.parts.map(encodeName).reduce(join, dir);
      this.list.push({ id: this.next++, at, path, file: f.file, sent: 0, state: "waiting", error: "", replace });
    }
    this.pump();
    this.tell();
  }

  private pump() {
    let busy = this.list.filter((u) => u.state === "sending").length;
    for (const u of this.list) {
      if (busy >= parallel) break;
      if (u.state !== "waiting") continue;
      busy++;
      void this.send(u);
    }
  }

  private end(u: Upload, state: State, error = "") {
    u.state = state;
    u.error = error;
    if (state === "done") {
      u.sent = u.file.size;
      this.finished.forEach((fn) => fn(u));
    }
    this.pump();
    this.tell();
  }

  private async send(u: Upload) {
    u.state = "sending";
    u.error = "";
    const options: tus.UploadOptions = {
      endpoint: uploadAddress(u.at, u.path, { parents: "true", keep: String(!u.replace) }),
      retryDelays,
      uploadDataDuringCreation: u.file.size <= inOneRequest,
      removeFingerprintOnSuccess: true,
      // Where it goes, and whether in the place of what is there, is a part of what is gone on with: the gateway was told when it began.
      fingerprint: (file) => Promise.resolve(["rackfs", u.at.workspace, u.at.fs, u.path, String(u.replace), (file as File).size, (file as File).lastModified].join("|")),
      onProgress: (sent) => {
        u.sent = sent;
        this.tell();
      },
      onSuccess: () => this.end(u, "done"),
      onShouldRetry: (err) => {
        const status = err.originalResponse?.getStatus() ?? 0;
        // What came before the connection broke may be noted only after it was asked how much that is: then it is asked again.
        return status === 0 || status >= 500 || status === 423 || status === 429 || (status === 409 && ["", "changed meanwhile"].includes(kindOf(err)));
      },
      onError: (err) => {
        if (u.state !== "sending") return;
        const kind = err instanceof tus.DetailedError ? kindOf(err) : "";
        if (kind === "file exists") {
          // It was begun as one that replaces nothing: what has come of it is of no use any more.
          void u.tus?.abort(true).catch(() => {});
          this.end(u, "conflict", "There is one of this name already.");
        } else this.end(u, "failed", err instanceof tus.DetailedError && err.originalResponse ? refusal(err.originalResponse.getStatus(), err.originalResponse.getBody()).message : "The gateway does not answer.");
      },
    };
    u.tus = new tus.Upload(u.file, options);
    try {
      const before = await u.tus.findPreviousUploads();
      const last = before.at(-1);
      if (last) u.tus.resumeFromPreviousUpload(last);
    } catch {
      // Without storage it begins anew.
    }
    if (u.state === "sending") u.tus.start();
    this.tell();
  }

  pause(u: Upload) {
    if (u.state !== "sending" && u.state !== "waiting") return;
    void u.tus?.abort();
    this.end(u, "paused");
  }

  resume(u: Upload, replace = u.replace) {
    u.replace = replace;
    u.state = "waiting";
    this.pump();
    this.tell();
  }

  /** What came of it is removed at the gateway. */
  cancel(u: Upload) {
    if (u.state === "done") return;
    const begun = u.tus;
    this.end(u, "canceled");
    if (begun) void begun.abort(true).catch(() => {}); // what is left there expires
  }

  replaceAll() {
    for (const u of this.list) if (u.state === "conflict") this.resume(u, true);
  }

  cancelAll() {
    for (const u of this.list) if (u.state !== "done" && u.state !== "canceled") this.cancel(u);
  }

  /** Forgets those that are over. */
  clear() {
    this.list = this.list.filter((u) => u.state === "sending" || u.state === "waiting" || u.state === "paused");
    this.tell();
  }

  get busy() {
    return this.list.some((u) => u.state === "sending" || u.state === "waiting");
  }
}

function kindOf(err: tus.DetailedError): string {
  const body = err.originalResponse?.getBody() ?? "";
  return body === "" ? "" : refusal(err.originalResponse?.getStatus() ?? 0, body).kind;
}

export const uploads = new Uploads();

export const useUploads = () => useSyncExternalStore(uploads.subscribe, uploads.snapshot).list;

// Who leaves while files are sent is asked.
window.addEventListener("beforeunload", (e) => {
  if (uploads.busy) e.preventDefault();
});

/** Files of an input, with the directories they are in if a directory was chosen. */
export const ofInput = (list: FileList): Chosen[] =>
  Array.from(list, (file) => ({ file, parts: file.webkitRelativePath === "" ? [file.name] : file.webkitRelativePath.split("/") }));

/** Files and directories that were dropped; directories without files are told apart. */
export async function ofDrop(items: DataTransferItemList): Promise<{ files: Chosen[]; empty: string[][] }> {
  // The list is empty as soon as this function waits: entries are taken at once.
  const roots = Array.from(items, (i) => i.webkitGetAsEntry()).filter((e) => e !== null);
  const files: Chosen[] = [];
  const empty: string[][] = [];
  const walk = async (entry: FileSystemEntry, above: string[]): Promise<void> => {
    const here = [...above, entry.name];
    if (entry.isFile) {
      const file = await new Promise<File>((ok, bad) => (entry as FileSystemFileEntry).file(ok, bad));
      files.push({ file, parts: here });
      return;
    }
    const reader = (entry as FileSystemDirectoryEntry).createReader();
    let any = false;
    for (;;) {
      const some = await new Promise<FileSystemEntry[]>((ok, bad) => reader.readEntries(ok, bad));
      if (some.length === 0) break;
      any = true;
      for (const e of some) await walk(e, here);
    }
    if (!any) empty.push(here);
  };
  for (const e of roots) await walk(e, []);
  return { files, empty };
}

/** Makes directories that nothing is uploaded into. */
export async function makeDirectories(at: Place, dir: string, list: string[][]) {
  for (const parts of list) await request("POST", fileAddress(at, "/directory", parts.map(encodeName).reduce(join, dir), { parents: "true" }));
}

export const placeOf = (u: Upload) => `${u.at.fs}:${shownPath(u.path)}`;
