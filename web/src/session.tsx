import type { QueryClient } from "@tanstack/react-query";
import { createContext, useContext } from "react";
import type { Identity } from "./api/client";

const roles = ["viewer", "editor", "admin"] as const;
export type Role = (typeof roles)[number];

/** Workspace, file system of it, percent-decoded path in that; fewer parts are more. */
export interface Scope {
  workspace: string;
  fs: string;
  path: string;
}

function scope(spec: string): Scope {
  const colon = spec.indexOf(":");
  const head = colon < 0 ? spec : spec.slice(0, colon);
  const path = colon < 0 ? "" : spec.slice(colon + 1);
  const [workspace = "", fs = ""] = head.split("/");
  return { workspace, fs, path: path === "/" ? "" : path };
}

// As accounts.Place.Covers.
function covers(p: Scope, q: Scope): boolean {
  if (p.workspace !== q.workspace) return false;
  if (p.fs === "") return true;
  if (p.fs !== q.fs) return false;
  return p.path === "" || q.path === p.path || q.path.startsWith(p.path + "/");
}

/** Who is logged in, and what is worth offering. The API decides what is allowed. */
export class Session {
  readonly scopes: Scope[];
  constructor(readonly id: Identity) {
    this.scopes = (id.scopes ?? []).map(scope);
  }
  get everywhere() {
    return this.scopes.length === 0;
  }
  has(role: Role) {
    return roles.indexOf(this.id.role as Role) >= roles.indexOf(role);
  }
  /** Whether all of a place is his, in that role. */
  may(role: Role, workspace: string, fs = "", path = ""): boolean {
    const at = { workspace, fs, path: path === "/" ? "" : path };
    return this.has(role) && (this.everywhere || this.scopes.some((s) => covers(s, at)));
  }
  /** Where he has anything in a file system: its root, or paths in it. */
  starts(workspace: string, fs: string): string[] {
    if (this.may("viewer", workspace, fs)) return ["/"];
    return this.scopes.filter((s) => s.workspace === workspace && s.fs === fs).map((s) => s.path);
  }
}

export const SessionContext = createContext<Session | null>(null);

export function useSession(): Session {
  const s = useContext(SessionContext);
  if (s === null) throw new Error("nobody is logged in");
  return s;
}

/** Forgets all that another one was told. */
export const forgetAll = (queries: QueryClient) => queries.removeQueries({ predicate: (q) => q.queryKey[0] !== "session" });
