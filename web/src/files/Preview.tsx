import { Alert, Button, Center, Group, Loader, Stack, Text } from "@mantine/core";
import { useEffect, useState } from "react";
import { fileAddress, request, type Place } from "../api/client";
import { bytes, time } from "../format";
import { DownloadIcon } from "../icons";
import { Dialog } from "../parts";
import type { Entry } from "./listing";

const KiB = 1024;
const MiB = 1024 * KiB;
/** How much of a text is shown, and how large an image may be. */
const textLimit = 256 * KiB;
const imageLimit = 32 * MiB;

type Shown = { kind: "text"; text: string; cut: boolean } | { kind: "image"; url: string } | { kind: "none"; why: string };

/** What images begin with. An SVG is a document, which is shown as the text it is. */
function imageType(b: Uint8Array): string | undefined {
  const at = (off: number, s: string) => [...s].every((c, i) => b[off + i] === c.charCodeAt(0));
  if (b[0] === 0x89 && at(1, "PNG\r\n")) return "image/png";
  if (b[0] === 0xff && b[1] === 0xd8 && b[2] === 0xff) return "image/jpeg";
  if (at(0, "GIF87a") || at(0, "GIF89a")) return "image/gif";
  if (at(0, "RIFF") && at(8, "WEBP")) return "image/webp";
  if (at(4, "ftypavif")) return "image/avif";
  if (at(0, "BM") && b.length > 30) return "image/bmp";
  return undefined;
}

async function look(at: Place, path: string, size: number, signal: AbortSignal): Promise<Shown> {
  if (size === 0) return { kind: "text", text: "", cut: false };
  const r = await request("GET", fileAddress(at, "/content", path), { signal, headers: { Range: `bytes=0-${textLimit - 1}` } });
  const head = new Uint8Array(await r.arrayBuffer());
  const type = imageType(head);
  if (type !== undefined) {
    if (size > imageLimit) return { kind: "none", why: `Images are shown up to ${bytes(imageLimit)}; this one has ${bytes(size)}.` };
    const whole = head.length >= size ? head : await (await request("GET", fileAddress(at, "/content", path), { signal })).arrayBuffer();
    return { kind: "image", url: URL.createObjectURL(new Blob([whole], { type })) };
  }
  if (head.includes(0)) return { kind: "none", why: "This is neither text nor an image that is shown here." };
  return { kind: "text", text: new TextDecoder().decode(head), cut: size > head.length };
}

/** Shows a file as text or as an image; nothing in it is run. */
export function Preview(p: { at: Place; path: string; entry: Entry; onClose: () => void; download: () => void }) {
  const [shown, setShown] = useState<Shown>();
  const [error, setError] = useState("");
  useEffect(() => {
    const stop = new AbortController();
    let url = "";
    look(p.at, p.path, p.entry.size, stop.signal).then(
      (s) => {
        if (s.kind === "image") url = s.url;
        if (stop.signal.aborted) URL.revokeObjectURL(url);
        else setShown(s);
      },
      (e: unknown) => stop.signal.aborted || setError((e as Error).message),
    );
    return () => {
      stop.abort();
      if (url !== "") URL.revokeObjectURL(url);
    };
  }, [p.path]); // eslint-disable-line
  return (
    <Dialog onClose={p.onClose} size="xl" title={<Text span className="wrap" fw={600}>{p.entry.name}</Text>}>
      <Stack className="preview" data-test="preview">
        <Group justify="space-between">
          <Text size="sm" c="dimmed">{bytes(p.entry.size)}, changed {time(p.entry.mtime)}, mode {p.entry.mode}</Text>
          <Button size="xs" variant="light" leftSection={<DownloadIcon size={16} />} onClick={p.download}>Download</Button>
        </Group>
        {error !== "" && <Alert color="red" role="alert">{error}</Alert>}
        {error === "" && shown === undefined && <Center h={160}><Loader aria-label="Loading" /></Center>}
        {shown?.kind === "none" && <Alert color="gray">{shown.why}</Alert>}
        {shown?.kind === "image" && <img src={shown.url} alt={p.entry.name} />}
        {shown?.kind === "text" && (
          <>
            {shown.cut && <Alert color="yellow">These are the first {bytes(textLimit)}. Download the file to see all.</Alert>}
            <pre tabIndex={0}>{shown.text === "" ? <Text span c="dimmed">It is empty.</Text> : shown.text}</pre>
          </>
        )}
      </Stack>
    </Dialog>
  );
}
