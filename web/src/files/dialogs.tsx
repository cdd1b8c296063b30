import { Button, Group, Stack, Text, TextInput } from "@mantine/core";
import { useState, type FormEvent } from "react";
import { Dialog } from "../parts";
import { badName } from "../path";

/** Asks for a name and does something with it; what goes wrong is said beside the name. */
export function NameDialog(p: { title: string; label: string; action: string; value?: string; onClose: () => void; run: (name: string) => Promise<void> }) {
  const [name, setName] = useState(p.value ?? "");
  const [error, setError] = useState("");
  const [busy, setBusy] = useState(false);
  const submit = async (e: FormEvent) => {
    e.preventDefault();
    const bad = badName(name);
    if (bad) return setError(bad);
    setBusy(true);
    try {
      await p.run(name);
      p.onClose();
    } catch (err) {
      setError((err as Error).message);
      setBusy(false);
    }
  };
  return (
    <Dialog onClose={p.onClose} title={p.title}>
      <form onSubmit={(e) => void submit(e)}>
        <Stack>
          <TextInput label={p.label} value={name} onChange={(e) => { setName(e.currentTarget.value); setError(""); }} error={error || undefined} errorProps={{ role: "alert", className: "wrap" }} data-autofocus autoComplete="off" spellCheck={false} data-test="name" />
          <Group justify="flex-end">
            <Button variant="default" onClick={p.onClose}>Cancel</Button>
            <Button type="submit" loading={busy} data-test="submit">{p.action}</Button>
          </Group>
        </Stack>
      </form>
    </Dialog>
  );
}

/** Asks before something that cannot be undone. */
export function Confirm(p: { title: string; text: string; names?: string[]; action: string; onClose: () => void; run: () => Promise<void> }) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState("");
  const run = async () => {
    setBusy(true);
    try {
      await p.run();
      p.onClose();
    } catch (err) {
      setError((err as Error).message);
      setBusy(false);
    }
  };
  return (
    <Dialog onClose={p.onClose} title={p.title}>
      <Stack>
        <Text size="sm">{p.text}</Text>
        {p.names && (
          <ul className="names">
            {p.names.slice(0, 8).map((n, i) => <li key={i}><Text size="sm" className="wrap">{n}</Text></li>)}
            {p.names.length > 8 && <li><Text size="sm" c="dimmed">and {p.names.length - 8} more</Text></li>}
          </ul>
        )}
        {error !== "" && <Text c="red" size="sm" role="alert" className="wrap">{error}</Text>}
        <Group justify="flex-end">
          <Button variant="default" onClick={p.onClose} data-autofocus>Cancel</Button>
          <Button color="red" loading={busy} onClick={() => void run()} data-test="confirm">{p.action}</Button>
        </Group>
      </Stack>
    </Dialog>
  );
}
