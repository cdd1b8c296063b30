import { ActionIcon, Alert, Button, Code, CopyButton, Group, Modal, Progress, Stack, Text, Title, Tooltip, type ModalProps } from "@mantine/core";
import { useEffect, useState, type ReactNode } from "react";
import { CheckIcon, CopyIcon } from "./icons";
import { bytes, percent } from "./format";

/** What went wrong, with a way on. */
export function Trouble({ what, error, retry }: { what: string; error: unknown; retry?: () => void }) {
  return (
    <Alert color="red" title={what} role="alert" maw={720}>
      <Stack gap="xs" align="flex-start">
        <Text size="sm" className="wrap">{error instanceof Error ? error.message : String(error)}</Text>
        {retry && <Button size="xs" variant="light" color="red" onClick={retry}>Try again</Button>}
      </Stack>
    </Alert>
  );
}

/** What the page is called in the browser. */
export function useTitle(title: string) {
  useEffect(() => {
    document.title = `${title} - rackfs`;
  }, [title]);
}

/** What has the focus; of an item of a menu, what opened the menu. */
function opener(): HTMLElement | null {
  const e = document.activeElement;
  const menu = e?.closest("[role=menu]");
  return (menu ? document.getElementById(menu.getAttribute("aria-labelledby") ?? "") : e) as HTMLElement | null;
}

/** A dialog that is open as long as it is rendered. The focus goes back to what opened it or, where that is gone, to the list or the content. */
export function Dialog({ children, ...p }: Omit<ModalProps, "opened">) {
  const [from] = useState(opener); // before the menu that it is of is gone
  useEffect(() => {
    return () => {
      setTimeout(() => {
        const home = document.querySelector<HTMLElement>("[data-home]") ?? document.getElementById("main");
        (from?.isConnected && from !== document.body ? from : home)?.focus({ preventScroll: true });
      });
    };
  }, [from]);
  return <Modal opened returnFocus={false} transitionProps={{ duration: 0 }} {...p}>{children}</Modal>;
}

/** The head of a page. */
export function Head({ title, children, text }: { title: string; children?: ReactNode; text?: ReactNode }) {
  useTitle(title);
  return (
    <Group justify="space-between" align="flex-start" mb="md" wrap="wrap">
      <div>
        <Title order={1} size="h2">{title}</Title>
        {text && <Text c="dimmed" size="sm">{text}</Text>}
      </div>
      {children && <Group gap="xs">{children}</Group>}
    </Group>
  );
}

/** How much of something is used. */
export function Usage({ used, of, label }: { used: number; of: number; label: string }) {
  const p = percent(used, of);
  return (
    <div>
      <Text size="sm">
        {bytes(used)}
        {of > 0 && <Text span c="dimmed"> of {bytes(of)}</Text>}
      </Text>
      {of > 0 && <Progress value={p} color={p > 95 ? "red" : p > 80 ? "yellow" : "blue"} size="sm" aria-label={label} />}
    </div>
  );
}

/** Text to be copied. */
export function Copyable({ text, label, test }: { text: string; label: string; test?: string }) {
  return (
    <div className="copyable">
      <Code block data-test={test}>{text}</Code>
      <CopyButton value={text}>
        {({ copied, copy }) => (
          <Tooltip label={copied ? "Copied" : "Copy"}>
            <ActionIcon variant="default" className="copy" onClick={copy} aria-label={copied ? `${label}: copied` : `Copy ${label}`}>
              {copied ? <CheckIcon size={16} /> : <CopyIcon size={16} />}
            </ActionIcon>
          </Tooltip>
        )}
      </CopyButton>
    </div>
  );
}
