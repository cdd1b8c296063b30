import { ActionIcon, Button, Group, Paper, Progress, Text, Tooltip } from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import { bytes, percent, plural } from "../format";
import { CheckIcon, ChevronIcon, CloseIcon, PauseIcon, PlayIcon } from "../icons";
import { placeOf, uploads, useUploads, type State, type Upload } from "./uploads";

/** How many are shown; the rest is counted. */
const shownAtMost = 60;
const first: Record<State, number> = { conflict: 0, failed: 1, sending: 2, paused: 3, waiting: 4, done: 5, canceled: 6 };

/** Uploads, wherever in the dashboard one is. */
export function UploadPanel() {
  const list = useUploads();
  const [folded, fold] = useDisclosure(false);
  if (list.length === 0) return null;
  const live = list.filter((u) => u.state !== "canceled");
  const total = live.reduce((n, u) => n + u.file.size, 0);
  const sent = live.reduce((n, u) => n + u.sent, 0);
  const done = list.filter((u) => u.state === "done").length;
  const conflicts = list.filter((u) => u.state === "conflict").length;
  const open = list.some((u) => u.state === "sending" || u.state === "waiting" || u.state === "paused");
  const sorted = list.slice().sort((a, b) => first[a.state] - first[b.state] || a.id - b.id);
  return (
    <Paper className="uploads" withBorder shadow="md" role="region" aria-label="Uploads" data-test="uploads" data-open={open}>
      <Group justify="space-between" p="xs" wrap="nowrap">
        <div>
          <Text size="sm" fw={600} role="status" aria-live="polite">
            {open ? `Uploading: ${done} of ${plural(live.length, "file")}` : `${plural(done, "file")} uploaded`}
          </Text>
          <Text size="xs" c="dimmed">{bytes(sent)} of {bytes(total)}</Text>
        </div>
        <Group gap={4} wrap="nowrap">
          {conflicts > 1 && <Button size="compact-xs" variant="light" onClick={() => uploads.replaceAll()}>Replace all</Button>}
          {open && <Button size="compact-xs" variant="subtle" color="red" onClick={() => uploads.cancelAll()}>Cancel all</Button>}
          <ActionIcon variant="subtle" color="gray" onClick={fold.toggle} aria-expanded={!folded} aria-label={folded ? "Show uploads" : "Hide uploads"}><span style={{ display: "inline-flex", transform: folded ? "rotate(180deg)" : undefined }}><ChevronIcon /></span></ActionIcon>
          <ActionIcon variant="subtle" color="gray" onClick={() => uploads.clear()} aria-label="Clear finished uploads"><CloseIcon /></ActionIcon>
        </Group>
      </Group>
      <Progress value={total > 0 ? percent(sent, total) : percent(done, live.length)} size="xs" radius={0} aria-label="All uploads" />
      {!folded && (
        <div className="list" tabIndex={0} role="list" aria-label="Files">
          {sorted.slice(0, shownAtMost).map((u) => <Item key={u.id} u={u} />)}
          {sorted.length > shownAtMost && <Text size="xs" c="dimmed" p="xs">and {plural(sorted.length - shownAtMost, "more", "more")}</Text>}
        </div>
      )}
    </Paper>
  );
}

function Item({ u }: { u: Upload }) {
  const says: Record<State, string> = {
    waiting: "waiting", sending: `${bytes(u.sent)} of ${bytes(u.file.size)}`, paused: `paused at ${bytes(u.sent)}`, conflict: u.error, failed: u.error, done: bytes(u.file.size), canceled: "canceled",
  };
  const bad = u.state === "failed" || u.state === "conflict";
  return (
    <div className="item" role="listitem">
      <Group justify="space-between" wrap="nowrap" gap="xs">
        <div style={{ minWidth: 0 }}>
          <Tooltip label={placeOf(u)} openDelay={400}><Text size="sm" className="ellipsis">{u.file.name}</Text></Tooltip>
          <Text size="xs" c={bad ? "red" : "dimmed"} className="wrap">{says[u.state]}</Text>
        </div>
        <Group gap={2} wrap="nowrap">
          {u.state === "done" && <CheckIcon size={16} />}
          {u.state === "conflict" && <Button size="compact-xs" variant="light" onClick={() => uploads.resume(u, true)}>Replace</Button>}
          {u.state === "conflict" && <Button size="compact-xs" variant="subtle" onClick={() => uploads.cancel(u)}>Skip</Button>}
          {u.state === "sending" && <Act label={`Pause ${u.file.name}`} run={() => uploads.pause(u)}><PauseIcon size={14} /></Act>}
          {(u.state === "paused" || u.state === "failed") && <Act label={`Resume ${u.file.name}`} run={() => uploads.resume(u)}><PlayIcon size={14} /></Act>}
          {(u.state === "sending" || u.state === "waiting" || u.state === "paused" || u.state === "failed") && <Act label={`Cancel ${u.file.name}`} run={() => uploads.cancel(u)}><CloseIcon size={14} /></Act>}
        </Group>
      </Group>
      {(u.state === "sending" || u.state === "paused") && <Progress mt={4} size={4} value={percent(u.sent, u.file.size)} aria-label={`Upload of ${u.file.name}`} />}
    </div>
  );
}

function Act({ label, run, children }: { label: string; run: () => void; children: React.ReactNode }) {
  return <ActionIcon variant="subtle" color="gray" size="sm" aria-label={label} onClick={run}>{children}</ActionIcon>;
}
