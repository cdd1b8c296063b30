import { ActionIcon, Checkbox, Menu, UnstyledButton } from "@mantine/core";
import { defaultRangeExtractor, useVirtualizer } from "@tanstack/react-virtual";
import { useEffect, useId, useRef, useState, type KeyboardEvent, type MouseEvent, type ReactNode } from "react";
import { bytes, time } from "../format";
import { DotsIcon, FileIcon, FolderIcon, LinkIcon } from "../icons";
import { isDir, type Column, type Entry, type Order } from "./listing";

const rowHeight = 36;

/** What can be done to an entry. */
export interface Action {
  label: string;
  icon: ReactNode;
  danger?: boolean;
  run: (e: Entry) => void;
}

interface Props {
  entries: Entry[];
  height: number | string;
  order: Order;
  onOrder: (o: Order) => void;
  selected: ReadonlySet<string>; // parts
  onSelect: (s: ReadonlySet<string>) => void;
  onOpen: (e: Entry) => void;
  actions: (e: Entry) => Action[];
  onDelete?: () => void;
  onRename?: (e: Entry) => void;
  label: string;
}

/** Entries as a grid, of which only the rows that are seen are in the page. The grid has the focus; one row is active in it, which keys move. */
export function FileTable(p: Props) {
  const grid = useRef<HTMLDivElement>(null);
  const scroll = useRef<HTMLDivElement>(null);
  const [active, setActive] = useState(0);
  const anchor = useRef(0); // where a range of the selection begins
  const id = useId();
  const at = Math.min(active, Math.max(0, p.entries.length - 1));
  const rows = useVirtualizer({
    count: p.entries.length, getScrollElement: () => scroll.current, estimateSize: () => rowHeight, overscan: 8, getItemKey: (i) => p.entries[i]?.part ?? i,
    // The active row is always in the page: the grid refers to it.
    rangeExtractor: (r) => [...new Set([...defaultRangeExtractor(r), ...(at < r.count ? [at] : [])])].sort((a, b) => a - b),
  });
  useEffect(() => {
    setActive(0);
    anchor.current = 0;
    scroll.current?.scrollTo({ top: 0 });
  }, [p.label, p.order]);

  const range = (to: number) => {
    const [a, b] = [Math.min(anchor.current, to), Math.max(anchor.current, to)];
    p.onSelect(new Set(p.entries.slice(a, b + 1).map((e) => e.part)));
  };
  const toggle = (i: number) => {
    const e = p.entries[i];
    if (!e) return;
    const s = new Set(p.selected);
    if (!s.delete(e.part)) s.add(e.part);
    anchor.current = i;
    p.onSelect(s);
  };
  const move = (to: number, extend: boolean) => {
    const i = Math.max(0, Math.min(p.entries.length - 1, to));
    setActive(i);
    rows.scrollToIndex(i);
    if (extend) range(i);
    else anchor.current = i;
  };
  const onKey = (e: KeyboardEvent) => {
    if (e.target !== e.currentTarget) {
      if (!["ArrowUp", "ArrowDown"].includes(e.key) || !scroll.current?.contains(e.target as Node)) return;
      grid.current?.focus({ preventScroll: true });
    }
    const perPage = Math.max(1, Math.floor((scroll.current?.clientHeight ?? rowHeight) / rowHeight) - 1);
    const now = p.entries[at];
    switch (e.key) {
      case "ArrowDown": move(at + 1, e.shiftKey); break;
      case "ArrowUp": move(at - 1, e.shiftKey); break;
      case "PageDown": move(at + perPage, e.shiftKey); break;
      case "PageUp": move(at - perPage, e.shiftKey); break;
      case "Home": move(0, e.shiftKey); break;
      case "End": move(p.entries.length - 1, e.shiftKey); break;
      case "Enter": if (now) p.onOpen(now); break;
      case " ": toggle(at); break;
      case "Escape": p.onSelect(new Set()); break;
      case "Delete": p.onDelete?.(); break;
      case "F2": if (now) p.onRename?.(now); break;
      case "a": if (!e.ctrlKey && !e.metaKey) return; p.onSelect(new Set(p.entries.map((x) => x.part))); break;
      default: return;
    }
    e.preventDefault();
  };
  const onRow = (e: MouseEvent, i: number) => {
    if ((e.target as Element).closest("a, button, input, [role=menu]")) return;
    setActive(i);
    if (e.shiftKey) range(i);
    else if (e.ctrlKey || e.metaKey) toggle(i);
    else {
      anchor.current = i;
      const entry = p.entries[i];
      p.onSelect(new Set(entry ? [entry.part] : []));
    }
  };
  const all = p.entries.length > 0 && p.selected.size === p.entries.length;
  return (
    <div
      ref={grid} className="grid" role="grid" aria-label={p.label} aria-multiselectable aria-rowcount={p.entries.length + 1} aria-colcount={6} tabIndex={0}
      aria-activedescendant={p.entries.length > 0 ? `${id}-${at}` : undefined} onKeyDown={onKey} data-test="files" data-home
    >
      <div className="head" role="row" aria-rowindex={1}>
        <div role="columnheader">
          <Checkbox size="xs" aria-label="Select all" checked={all} indeterminate={p.selected.size > 0 && !all} onChange={() => p.onSelect(all ? new Set() : new Set(p.entries.map((e) => e.part)))} />
        </div>
        <Header column="name" order={p.order} onOrder={p.onOrder}>Name</Header>
        <Header column="size" order={p.order} onOrder={p.onOrder} className="num">Size</Header>
        <Header column="mtime" order={p.order} onOrder={p.onOrder} className="wide">Changed</Header>
        <div role="columnheader" className="wide">Mode</div>
        <div role="columnheader" aria-label="Actions" />
      </div>
      <div ref={scroll} className="scroll" style={{ maxHeight: p.height }} tabIndex={-1} role="rowgroup" onFocus={(e) => e.target === e.currentTarget && grid.current?.focus({ preventScroll: true })}>
        <div className="space" role="presentation" style={{ height: rows.getTotalSize() }}>
          {rows.getVirtualItems().map((v) => {
            const e = p.entries[v.index];
            if (!e) return null;
            return (
              <div
                key={v.key} id={`${id}-${v.index}`} className={v.index === at ? "row active" : "row"} role="row" aria-rowindex={v.index + 2} aria-selected={p.selected.has(e.part)}
                style={{ transform: `translateY(${v.start}px)` }} onClick={(ev) => onRow(ev, v.index)} onDoubleClick={() => p.onOpen(e)} data-name={e.name}
              >
                <div role="gridcell"><Checkbox size="xs" tabIndex={-1} aria-label={`Select ${e.name}`} checked={p.selected.has(e.part)} onChange={() => { setActive(v.index); toggle(v.index); }} /></div>
                <div role="gridcell" className="name">
                  {isDir(e) ? <FolderIcon /> : e.type === "symlink" ? <LinkIcon /> : <FileIcon />}
                  <UnstyledButton className="cell" tabIndex={-1} title={e.name} onClick={() => p.onOpen(e)} fz="sm">{e.name}</UnstyledButton>
                </div>
                <div role="gridcell" className="cell num">{isDir(e) ? "" : bytes(e.size)}</div>
                <div role="gridcell" className="cell wide">{time(e.mtime)}</div>
                <div role="gridcell" className="cell wide">{e.mode}</div>
                <div role="gridcell"><RowMenu entry={e} actions={p.actions} /></div>
              </div>
            );
          })}
        </div>
      </div>
    </div>
  );
}

/** The menu of a row is made when it is asked for: rows come and go fast. */
function RowMenu({ entry, actions }: { entry: Entry; actions: (e: Entry) => Action[] }) {
  const [asked, setAsked] = useState(false);
  const button = (
    <ActionIcon variant="subtle" color="gray" size="sm" tabIndex={-1} aria-label={`Actions for ${entry.name}`} onClick={() => setAsked(true)}>
      <DotsIcon size={16} />
    </ActionIcon>
  );
  if (!asked) return button;
  return (
    <Menu position="bottom-end" defaultOpened onClose={() => setAsked(false)} withinPortal>
      <Menu.Target>{button}</Menu.Target>
      <Menu.Dropdown>
        {actions(entry).map((a) => (
          <Menu.Item key={a.label} leftSection={a.icon} className={a.danger ? "danger" : undefined} onClick={() => a.run(entry)}>{a.label}</Menu.Item>
        ))}
      </Menu.Dropdown>
    </Menu>
  );
}

function Header({ column, order, onOrder, className, children }: { column: Column; order: Order; onOrder: (o: Order) => void; className?: string; children: ReactNode }) {
  const mine = order.by === column;
  return (
    <div role="columnheader" className={className} aria-sort={mine ? (order.down ? "descending" : "ascending") : "none"}>
      <UnstyledButton fz="sm" onClick={() => onOrder({ by: column, down: mine ? !order.down : column !== "name" })}>
        {children} <span aria-hidden="true">{mine ? (order.down ? "↓" : "↑") : ""}</span>
      </UnstyledButton>
    </div>
  );
}
