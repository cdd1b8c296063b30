import { useCallback, useEffect, useRef, useState } from "react";
import { call, fileAddress, Refusal, type FileInfo, type Place } from "../api/client";
import { encodeName } from "../path";

/** What the list keeps of a file: directories may have a hundred thousand. */
export interface Entry {
  name: string; // as it is shown
  part: string; // as it stands in a path
  type: string;
  size: number;
  mtime: number;
  mode: string;
  key: string; // by which names are compared
}

export type Column = "name" | "size" | "mtime";
export interface Order {
  by: Column;
  down: boolean;
}

const firstPage = 500;
const page = 5000;
/** How many entries are loaded without being asked for. */
export const eager = 200_000;
const pollInterval = 2_000;
const retryAfter = 3_000;
/** Looking for changes takes at most this part of the time. */
const pollShare = 10;

// Digits are padded, so that 2 comes before 10 by comparing texts, which is many times faster than asking for the language's order.
const keyOf = (name: string) => name.toLowerCase().replace(/\d+/g, (d) => d.padStart(10, "0"));

// What turns the direction of text around would show "exe.png" for a name that ends in ".exe".
const visible = (name: string) => name.replace(/[\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");

export const entryOf = (f: FileInfo): Entry => ({
  name: visible(f.name),
  part: f.escaped ?? encodeName(f.name),
  type: f.type,
  size: f.size,
  mtime: Date.parse(f.mtime),
  mode: f.mode,
  key: keyOf(f.name),
});

export const isDir = (e: Entry) => e.type === "directory";

/** Directories first, then by the order. */
export function compare(o: Order): (a: Entry, b: Entry) => number {
  const sign = o.down ? -1 : 1;
  const names = (a: Entry, b: Entry) => (a.key < b.key ? -1 : a.key > b.key ? 1 : a.part < b.part ? -1 : a.part > b.part ? 1 : 0);
  return (a, b) => {
    const d = Number(isDir(b)) - Number(isDir(a));
    if (d !== 0) return d;
    if (o.by === "name") return sign * names(a, b);
    return sign * (a[o.by] - b[o.by]) || names(a, b);
  };
}

export interface Listing {
  entries: Entry[]; // in order
  loaded: number; // so far
  done: boolean; // all of it is there
  more: boolean; // there are more than are loaded without being asked for
  pending: boolean; // nothing is there yet
  error: unknown;
}

const nothing: Listing = { entries: [], loaded: 0, done: false, more: false, pending: true, error: undefined };

/** The entries of a directory, page by page, and anew when it changes. What is there is shown while the rest is loaded. */
export function useListing(at: Place, path: string, order: Order) {
  const [state, setState] = useState<Listing>(nothing);
  const [turn, setTurn] = useState(0);
  const all = useRef<Entry[]>([]);
  const limit = useRef(eager);
  const took = useRef(0);
  const where = `${at.workspace}/${at.fs}:${path}`;
  const shownOf = useRef("");
  const reload = useCallback(() => setTurn((t) => t + 1), []);
  const orderNow = useRef(order);
  orderNow.current = order;

  useEffect(() => {
    const stop = new AbortController();
    let again: ReturnType<typeof setTimeout> | undefined;
    const fresh = shownOf.current !== where;
    if (fresh) {
      shownOf.current = where;
      limit.current = eager;
      all.current = [];
      setState(nothing);
    }
    const load = async () => {
      const began = performance.now();
      const found: Entry[] = [];
      const seen = new Set<string>();
      let after = "";
      let sorted = 0; // how many were when it was sorted last
      try {
        do {
          const list = await call("list-files", "GET", fileAddress(at, "", path, { after, limit: String(found.length === 0 ? firstPage : page) }), undefined, stop.signal);
          for (const f of list.files ?? []) {
            const e = entryOf(f);
            if (!seen.has(e.part)) {
              seen.add(e.part);
              found.push(e);
            }
          }
          after = list.next ?? "";
          const over = after === "" || found.length >= limit.current;
          // A list that was shown stays until all of its successor is there. While the first one is loaded, it is sorted when it has doubled: all in all that
          // is no more than sorting twice.
          if (fresh && !over && found.length >= 2 * sorted) {
            sorted = found.length;
            all.current = found.slice();
            setState({ entries: found.slice().sort(compare(orderNow.current)), loaded: found.length, done: false, more: false, pending: false, error: undefined });
          } else if (fresh && !over) {
            setState((s) => ({ ...s, loaded: found.length }));
          }
          if (over) break;
        } while (!stop.signal.aborted);
        all.current = found;
        took.current = performance.now() - began;
        setState({ entries: found.slice().sort(compare(orderNow.current)), loaded: found.length, done: after === "", more: after !== "", pending: false, error: undefined });
      } catch (error) {
        if (stop.signal.aborted) return;
        setState((s) => ({ ...s, pending: false, error }));
        // A gateway that does not answer may do so again; a refusal stays one.
        if (error instanceof Refusal && (error.status === 0 || error.status >= 500)) again = setTimeout(reload, retryAfter);
      }
    };
    void load();
    return () => {
      stop.abort();
      clearTimeout(again);
    };
    // The order is applied below: another one loads nothing anew.
  }, [where, turn]); // eslint-disable-line

  useEffect(() => {
    setState((s) => (s.pending ? s : { ...s, entries: all.current.slice().sort(compare(order)) }));
  }, [order]);

  const loadMore = useCallback(() => {
    limit.current += eager;
    reload();
  }, [reload]);

  // Others change directories too: a directory that has another ETag is listed anew.
  useEffect(() => {
    let tag: string | undefined;
    let timer: ReturnType<typeof setTimeout>;
    const stop = new AbortController();
    const look = async () => {
      if (document.visibilityState === "visible") {
        try {
          const now = await call("stat-file", "GET", fileAddress(at, "/stat", path), undefined, stop.signal);
          if (tag !== undefined && now.etag !== tag) reload();
          tag = now.etag;
        } catch {
          // Listing it says what is wrong.
        }
      }
      if (!stop.signal.aborted) timer = setTimeout(() => void look(), Math.max(pollInterval, pollShare * took.current));
    };
    void look();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [where, reload]); // eslint-disable-line

  return { ...state, reload, loadMore };
}
