import { ActionIcon, Anchor, Breadcrumbs, Button, FileButton, Group, Loader, Menu, Text, Tooltip, VisuallyHidden } from "@mantine/core";
import { useQueryClient } from "@tanstack/react-query";
import { lazy, Suspense, useCallback, useEffect, useMemo, useRef, useState, type DragEvent, type ReactNode } from "react";
import { Link, useLocation, useSearch } from "wouter";
import { base, call, fileAddress, request, type Place } from "../api/client";
import { bytes, count, plural } from "../format";
import { ChevronIcon, CloudIcon, DownloadIcon, EyeIcon, FileIcon, FolderIcon, PencilIcon, PlusIcon, RefreshIcon, TrashIcon, UploadIcon } from "../icons";
import { done, failed } from "../notify";
import { Trouble, useTitle } from "../parts";
import { encodeName, join, parent, parts, shown, shownPath } from "../path";
import { useSession } from "../session";
import { useFileSystem, useWorkspaces } from "../workspace";
import { Confirm, NameDialog } from "./dialogs";
import { isDir, useListing, type Entry, type Order } from "./listing";
import { Preview } from "./Preview";
import { FileTable, type Action } from "./Table";
import { makeDirectories, ofDrop, ofInput, uploads, type Chosen } from "./uploads";

const ImportDialog = lazy(() => import("./ImportDialog"));

/** How many files are downloaded at once without being an archive, and how many deletions are under way. */
const downloadsAtMost = 20;
const deletions = 6;

export const addressOf = (at: Place, path: string) => `/files/${encodeName(at.workspace)}/${encodeName(at.fs)}${path === "/" ? "" : "?path=" + path}`;

function pathOf(search: string): string {
  const p = search.split("&").find((x) => x.startsWith("path="));
  const path = p?.slice("path=".length) ?? "/";
  return path.startsWith("/") ? path : "/";
}

/** Has the browser save what an address answers with. */
function save(address: string) {
  const a = document.createElement("a");
  a.href = base + address;
  a.download = "";
  document.body.append(a);
  a.click();
  a.remove();
}

type Dialog = { kind: "folder" } | { kind: "file" } | { kind: "rename"; entry: Entry } | { kind: "delete"; entries: Entry[] } | { kind: "preview"; entry: Entry } | { kind: "import" };

export default function Browser({ workspace, fs }: { workspace: string; fs: string }) {
  const at = useMemo(() => ({ workspace, fs }), [workspace, fs]);
  const path = pathOf(useSearch());
  const session = useSession();
  const starts = session.starts(workspace, fs);
  const title = `${fs}:${shownPath(path)}`;
  useTitle(title);
  const outside = path === "/" && !starts.includes("/");
  return (
    <>
      <VisuallyHidden component="h1">{title}</VisuallyHidden>
      <Crumbs at={at} path={path} reach={starts} />
      {outside ? <Starts at={at} starts={starts} /> : <Directory key={workspace + "/" + fs} at={at} path={path} />}
    </>
  );
}

function Crumbs({ at, path, reach }: { at: Place; path: string; reach: string[] }) {
  const list = parts(path);
  const may = (p: string) => reach.some((r) => r === "/" || p === r || p.startsWith(r + "/"));
  return (
    <nav aria-label="Where you are">
      <Breadcrumbs mb="sm" separatorMargin={6} style={{ flexWrap: "wrap", rowGap: 4 }} data-test="crumbs">
        <Anchor component={Link} href="/fs">File systems</Anchor>
        {list.length === 0 ? <Text fw={600} aria-current="page">{at.fs}</Text> : <Anchor component={Link} href={addressOf(at, "/")}>{at.fs}</Anchor>}
        {list.map((p, i) => {
          const here = "/" + list.slice(0, i + 1).join("/");
          if (i === list.length - 1) return <Text key={here} fw={600} aria-current="page" className="wrap">{shown(p)}</Text>;
          return may(shownPath(here)) ? <Anchor key={here} component={Link} href={addressOf(at, here)} className="wrap">{shown(p)}</Anchor> : <Text key={here}>{shown(p)}</Text>;
        })}
      </Breadcrumbs>
    </nav>
  );
}

/** Of a token that is for some directories only: those. */
function Starts({ at, starts }: { at: Place; starts: string[] }) {
  if (starts.length === 0) return <Trouble what={`This token is not for ${at.fs}`} error="Choose another file system, or ask an administrator for a token." />;
  return (
    <>
      <Text mb="sm">This token is for these paths of {at.fs}:</Text>
      {starts.map((s) => (
        <div key={s}><Anchor component={Link} href={addressOf(at, "/" + parts(s).map(encodeName).join("/"))}><span className="withicon"><FolderIcon /> {s}</span></Anchor></div>
      ))}
    </>
  );
}

function Directory({ at, path }: { at: Place; path: string }) {
  const session = useSession();
  const queries = useQueryClient();
  const [, go] = useLocation();
  const [order, setOrder] = useState<Order>({ by: "name", down: false });
  const [selected, setSelected] = useState<ReadonlySet<string>>(new Set());
  const [dialog, setDialog] = useState<Dialog | null>(null);
  const list = useListing(at, path, order);
  const info = useFileSystem(at);
  const imports = useImportAllowed(at.workspace);
  const writable = session.may("editor", at.workspace, at.fs, shownPath(path)) && info.data?.read_only !== true;
  const { reload } = list;

  useEffect(() => setSelected(new Set()), [path]);
  const changed = useCallback(() => {
    reload();
    void queries.invalidateQueries({ queryKey: ["filesystem", at.workspace, at.fs] });
  }, [reload, queries, at]);

  // What was uploaded into what is seen is shown. A listing for each of a thousand files would be too many.
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const off = uploads.onDone((u) => {
      if (u.at.workspace !== at.workspace || u.at.fs !== at.fs || !(parent(u.path) + "/").startsWith(path === "/" ? "/" : path + "/")) return;
      timer ??= setTimeout(() => {
        timer = undefined;
        changed();
      }, 400);
    });
    return () => {
      off();
      clearTimeout(timer);
    };
  }, [at, path, changed]);

  const chosen = list.entries.filter((e) => selected.has(e.part));
  const open = (e: Entry) => {
    if (isDir(e)) go(addressOf(at, join(path, e.part)));
    else if (e.type === "file") setDialog({ kind: "preview", entry: e });
  };
  const download = (e: Entry, format = "tar.gz") => {
    const p = join(path, e.part);
    save(isDir(e) ? fileAddress(at, "/archive", p, { format }) : fileAddress(at, "/content", p));
  };
  const upload = (files: Chosen[]) => uploads.add(at, path, files);
  const remove = async (entries: Entry[]) => {
    const left = entries.slice();
    const errors: string[] = [];
    let jobs = 0;
    const one = async () => {
      for (let e = left.shift(); e; e = left.shift()) {
        try {
          if (isDir(e)) {
            await call("delete-file", "DELETE", fileAddress(at, "", join(path, e.part), { recursive: "true" }));
            jobs++;
          } else await call("delete-file", "DELETE", fileAddress(at, "", join(path, e.part)));
        } catch (err) {
          errors.push((err as Error).message);
        }
      }
    };
    await Promise.all(Array.from({ length: deletions }, one));
    setSelected(new Set());
    changed();
    if (jobs > 0) {
      done(`${plural(jobs, "folder is", "folders are")} being deleted. Jobs shows how far that is.`);
      setTimeout(changed, 1000);
    }
    if (errors.length > 0) throw new Error(errors.length === 1 ? errors[0] : `${errors.length} of ${entries.length} were not deleted: ${errors[0]}`);
  };
  const actions = (e: Entry): Action[] => {
    const out: Action[] = [];
    if (isDir(e)) {
      out.push({ label: "Open", icon: <FolderIcon size={16} />, run: open });
      out.push({ label: "Download as tar.gz", icon: <DownloadIcon size={16} />, run: (x) => download(x, "tar.gz") });
      out.push({ label: "Download as zip", icon: <DownloadIcon size={16} />, run: (x) => download(x, "zip") });
    } else if (e.type === "file") {
      out.push({ label: "Preview", icon: <EyeIcon size={16} />, run: open });
      out.push({ label: "Download", icon: <DownloadIcon size={16} />, run: download });
    }
    if (writable) {
      out.push({ label: "Rename", icon: <PencilIcon size={16} />, run: (x) => setDialog({ kind: "rename", entry: x }) });
      out.push({ label: "Delete", icon: <TrashIcon size={16} />, danger: true, run: (x) => setDialog({ kind: "delete", entries: [x] }) });
    }
    return out;
  };

  if (list.error !== undefined && list.entries.length === 0) return <Trouble what={`${shownPath(path)} cannot be listed`} error={list.error} retry={reload} />;
  return (
    <>
      <Group gap="xs" mb="sm" data-test="toolbar">
        {writable && (
          <>
            <UploadMenu upload={upload} onImport={imports ? () => setDialog({ kind: "import" }) : undefined} />
            <Menu position="bottom-start">
              <Menu.Target><Button variant="default" leftSection={<PlusIcon size={16} />} rightSection={<ChevronIcon size={14} />} data-test="new">New</Button></Menu.Target>
              <Menu.Dropdown>
                <Menu.Item leftSection={<FolderIcon />} onClick={() => setDialog({ kind: "folder" })} data-test="new-folder">Folder</Menu.Item>
                <Menu.Item leftSection={<FileIcon />} onClick={() => setDialog({ kind: "file" })} data-test="new-file">Empty file</Menu.Item>
              </Menu.Dropdown>
            </Menu>
          </>
        )}
        <DownloadMenu chosen={chosen} here={(format) => save(fileAddress(at, "/archive", path, { format }))} each={(format) => chosen.forEach((e, i) => setTimeout(() => download(e, format), 300 * i))} />
        {writable && chosen.length === 1 && <Button variant="default" leftSection={<PencilIcon size={16} />} onClick={() => setDialog({ kind: "rename", entry: chosen[0] as Entry })} data-test="rename">Rename</Button>}
        {writable && chosen.length > 0 && <Button variant="light" color="red" leftSection={<TrashIcon size={16} />} onClick={() => setDialog({ kind: "delete", entries: chosen })} data-test="delete">Delete {chosen.length > 1 ? count(chosen.length) : ""}</Button>}
        <Tooltip label="List again"><ActionIcon variant="subtle" size="lg" onClick={reload} aria-label="List again" data-test="reload"><RefreshIcon /></ActionIcon></Tooltip>
        <Status listing={list} chosen={chosen} />
      </Group>
      {list.error !== undefined && <Trouble what="What is shown may be old: it cannot be listed anew" error={list.error} retry={reload} />}
      <DropZone enabled={writable} onDrop={async (items) => {
        try {
          const d = await ofDrop(items);
          upload(d.files);
          await makeDirectories(at, path, d.empty);
          if (d.empty.length > 0) changed();
        } catch (e) {
          failed("Not all of it can be uploaded", e);
        }
      }}>
        <FileTable
          label={`Files of ${at.fs}:${shownPath(path)}`} height="calc(100vh - 232px)" entries={list.entries} order={order} onOrder={setOrder} selected={selected} onSelect={setSelected} onOpen={open} actions={actions}
          onDelete={writable ? () => chosen.length > 0 && setDialog({ kind: "delete", entries: chosen }) : undefined} onRename={writable ? (e) => setDialog({ kind: "rename", entry: e }) : undefined}
        />
        {!list.pending && list.done && list.entries.length === 0 && <Text className="nothing" c="dimmed">This folder is empty.{writable && " Drop files here, or use Upload."}</Text>}
      </DropZone>
      {list.more && <Group mt="xs"><Text size="sm">There are more than {count(list.loaded)} entries.</Text><Button size="xs" variant="light" onClick={list.loadMore}>Load more</Button></Group>}

      {dialog?.kind === "folder" && <NameDialog title="New folder" label="Name" action="Create" onClose={() => setDialog(null)} run={async (name) => {
        await call("make-directory", "POST", fileAddress(at, "/directory", join(path, encodeName(name))));
        changed();
      }} />}
      {dialog?.kind === "file" && <NameDialog title="New empty file" label="Name" action="Create" onClose={() => setDialog(null)} run={async (name) => {
        await putEmpty(at, join(path, encodeName(name)));
        changed();
      }} />}
      {dialog?.kind === "rename" && <NameDialog title="Rename" label="New name" action="Rename" value={shown(dialog.entry.part)} onClose={() => setDialog(null)} run={async (name) => {
        if (encodeName(name) === dialog.entry.part) return;
        await call("rename-file", "POST", fileAddress(at, "/rename", join(path, dialog.entry.part), { to: join(path, encodeName(name)), keep: "true" }));
        setSelected(new Set());
        changed();
      }} />}
      {dialog?.kind === "delete" && <Confirm
        title={dialog.entries.length === 1 ? `Delete ${isDir(dialog.entries[0] as Entry) ? "folder" : "file"}?` : `Delete ${plural(dialog.entries.length, "entry", "entries")}?`}
        text={dialog.entries.some(isDir) ? "Folders go with all that is in them. This cannot be undone." : "This cannot be undone."} names={dialog.entries.map((e) => e.name)} action="Delete" onClose={() => setDialog(null)} run={() => remove(dialog.entries)}
      />}
      {dialog?.kind === "preview" && <Preview at={at} path={join(path, dialog.entry.part)} entry={dialog.entry} onClose={() => setDialog(null)} download={() => download(dialog.entry)} />}
      {dialog?.kind === "import" && <Suspense><ImportDialog at={at} path={path} onClose={() => setDialog(null)} /></Suspense>}
    </>
  );
}

async function putEmpty(at: Place, path: string) {
  await request("PUT", fileAddress(at, "/content", path), { headers: { "If-None-Match": "*", "Content-Type": "application/octet-stream" }, body: new Blob([]) });
}

/** Whether the workspace has cloud import switched on. */
function useImportAllowed(workspace: string): boolean {
  const list = useWorkspaces();
  return list.data?.find((w) => w.name === workspace)?.features["cloud-import"] !== false;
}

function Status({ listing, chosen }: { listing: { loaded: number; done: boolean; pending: boolean; more: boolean }; chosen: Entry[] }) {
  const text = listing.pending ? "Listing" : listing.done || listing.more ? plural(listing.loaded, "entry", "entries") : `${count(listing.loaded)} entries so far`;
  const size = chosen.reduce((n, e) => n + (isDir(e) ? 0 : e.size), 0);
  return (
    <Group gap={6} ml="auto" role="status" aria-live="polite" data-test="status" data-done={listing.done}>
      {!listing.done && !listing.more && <Loader size="xs" />}
      <Text size="sm" c="dimmed">{chosen.length > 0 ? `${count(chosen.length)} of ${text} selected, ${bytes(size)}` : text}</Text>
    </Group>
  );
}

function UploadMenu({ upload, onImport }: { upload: (f: Chosen[]) => void; onImport?: () => void }) {
  const folder = useRef<HTMLInputElement>(null);
  const reset = useRef<() => void>(null);
  const files = useRef<HTMLButtonElement>(null);
  return (
    <>
      <FileButton multiple resetRef={reset} onChange={(list) => { upload(list.map((file) => ({ file, parts: [file.name] }))); reset.current?.(); }} inputProps={{ "aria-label": "Files to upload", "data-test": "input-files" } as object}>
        {(props) => <VisuallyHidden><button ref={files} type="button" tabIndex={-1} {...props}>Choose files</button></VisuallyHidden>}
      </FileButton>
      <input ref={folder} type="file" hidden {...{ webkitdirectory: "" }} aria-label="Folder to upload" data-test="input-folder" onChange={(e) => {
        if (e.currentTarget.files) upload(ofInput(e.currentTarget.files));
        e.currentTarget.value = "";
      }} />
      <Menu position="bottom-start">
        <Menu.Target><Button leftSection={<UploadIcon size={16} />} rightSection={<ChevronIcon size={14} />} data-test="upload">Upload</Button></Menu.Target>
        <Menu.Dropdown>
          <Menu.Item leftSection={<FileIcon />} onClick={() => files.current?.click()}>Files</Menu.Item>
          <Menu.Item leftSection={<FolderIcon />} onClick={() => folder.current?.click()}>Folder</Menu.Item>
          {onImport && <Menu.Item leftSection={<CloudIcon />} onClick={onImport} data-test="from-cloud">From Cloud</Menu.Item>}
        </Menu.Dropdown>
      </Menu>
    </>
  );
}

function DownloadMenu({ chosen, here, each }: { chosen: Entry[]; here: (format: string) => void; each: (format: string) => void }) {
  const only = chosen.filter((e) => isDir(e) || e.type === "file");
  const button = (text: string, extra: object = {}) => <Button variant="default" leftSection={<DownloadIcon size={16} />} data-test="download" {...extra}>{text}</Button>;
  if (only.length > 0 && !only.some(isDir)) {
    const many = only.length > downloadsAtMost;
    return <Tooltip label={many ? `At most ${downloadsAtMost} at once: download the folder as an archive` : ""} disabled={!many}>{button("Download", { onClick: many ? undefined : () => each(""), "aria-disabled": many })}</Tooltip>;
  }
  const run = only.length > 0 ? each : here;
  return (
    <Menu position="bottom-start">
      <Menu.Target>{button(only.length > 0 ? "Download" : "Download folder", { rightSection: <ChevronIcon size={14} /> })}</Menu.Target>
      <Menu.Dropdown>
        <Menu.Item onClick={() => run("tar.gz")} data-test="download-targz">As tar.gz</Menu.Item>
        <Menu.Item onClick={() => run("zip")} data-test="download-zip">As zip</Menu.Item>
      </Menu.Dropdown>
    </Menu>
  );
}

/** Takes files and folders that are dropped. */
function DropZone({ enabled, onDrop, children }: { enabled: boolean; onDrop: (items: DataTransferItemList) => Promise<void>; children: ReactNode }) {
  const [over, setOver] = useState(0); // elements of it that are under the pointer
  const has = (e: DragEvent) => enabled && e.dataTransfer.types.includes("Files");
  return (
    <div
      className={over > 0 ? "files over" : "files"} data-test="drop"
      onDragEnter={(e) => { if (has(e)) { e.preventDefault(); setOver((n) => n + 1); } }}
      onDragOver={(e) => { if (has(e)) { e.preventDefault(); e.dataTransfer.dropEffect = "copy"; } }}
      onDragLeave={(e) => { if (has(e)) setOver((n) => Math.max(0, n - 1)); }}
      onDrop={(e) => { if (has(e)) { e.preventDefault(); setOver(0); void onDrop(e.dataTransfer.items); } }}
    >
      {children}
      {over > 0 && <div className="droptext">Drop to upload</div>}
    </div>
  );
}
