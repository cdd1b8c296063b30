import { useQuery } from "@tanstack/react-query";
import { createContext, useContext } from "react";
import { call, fsAddress, type FileSystem, type Place } from "./api/client";

/** The chosen workspace. */
export const WorkspaceContext = createContext<string>("default");

export const useWorkspace = () => useContext(WorkspaceContext);

export const useWorkspaces = () =>
  useQuery({ queryKey: ["workspaces"], queryFn: async ({ signal }) => (await call("list-workspaces", "GET", "/workspaces", undefined, signal)).workspaces ?? [] });

/** All that may be seen. */
export const useFileSystems = () =>
  useQuery({ queryKey: ["filesystems"], queryFn: async ({ signal }) => (await call("list-filesystems", "GET", "/filesystems", undefined, signal)).file_systems ?? [] });

/** One, with what it uses and who serves it. */
export const useFileSystem = (at: Place | null) =>
  useQuery({
    queryKey: ["filesystem", at?.workspace, at?.fs],
    queryFn: ({ signal }) => call("show-filesystem", "GET", fsAddress(at as Place), undefined, signal),
    enabled: at !== null,
    staleTime: 10_000,
  });

/** Why the files of a file system cannot be shown here; undefined if they can. */
export function unreachable(fs: FileSystem): string | undefined {
  if (fs.kind === "local") return `Local: each node of the group ${fs.group} has files of its own on its own disk. Only workloads on that node reach them, by mounting it there.`;
  if (fs.state !== "active") return `It is ${fs.state}.`;
  return undefined;
}
