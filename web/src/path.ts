// Paths of files are kept as they stand in a query: absolute, each part percent-encoded. Names are bytes, and those that are not UTF-8 have no other form here.

/** A name that was typed or shown, as a part of a path. */
export const encodeName = (name: string) => encodeURIComponent(name);

export const join = (dir: string, part: string) => (dir === "/" ? "/" + part : dir + "/" + part);

export const parts = (path: string) => path.split("/").filter((p) => p !== "");

export function parent(path: string): string {
  const i = path.lastIndexOf("/");
  return i <= 0 ? "/" : path.slice(0, i);
}

/** A part as it is shown to people. */
export function shown(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export const shownPath = (path: string) => "/" + parts(path).map(shown).join("/");

/** A path as people type it. */
export const typed = (text: string) => "/" + text.split("/").filter((p) => p !== "").map(encodeName).join("/");

/** Why a name cannot be one; undefined if it can. The API says the last word. */
export function badName(name: string): string | undefined {
  if (name === "") return "Type a name.";
  if (name === "." || name === "..") return "This name is taken by every folder itself.";
  if (name.includes("/")) return "A name has no slash.";
  if (name.includes("\0")) return "A name has no NUL.";
  if (new TextEncoder().encode(name).length > 255) return "A name has at most 255 bytes.";
  return undefined;
}
