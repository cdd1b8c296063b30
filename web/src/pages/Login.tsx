import { Alert, Button, Card, Center, Group, Image, PasswordInput, Stack, Text, Title } from "@mantine/core";
import { useQueryClient } from "@tanstack/react-query";
import { useState, type FormEvent } from "react";
import { call, Refusal } from "../api/client";
import { useTitle } from "../parts";
import { forgetAll } from "../session";

export function Login() {
  useTitle("Log in");
  const queries = useQueryClient();
  const [token, setToken] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState("");
  const logIn = async (e: FormEvent) => {
    e.preventDefault();
    setBusy(true);
    setError("");
    try {
      const who = await call("log-in", "POST", "/session", { token: token.trim() });
      forgetAll(queries);
      queries.setQueryData(["session"], who);
    } catch (err) {
      setError(err instanceof Refusal && err.status === 401 ? "This token is not known here, has expired or was revoked." : (err as Error).message);
    } finally {
      setBusy(false);
    }
  };
  return (
    <Center mih="100vh" p="md" component="main">
      <Card withBorder shadow="sm" padding="xl" w={420} maw="100%">
        <form onSubmit={(e) => void logIn(e)}>
          <Stack>
            <Group gap="sm">
              <Image src="/icon.svg" w={36} h={36} alt="" />
              <Title order={1} size="h2">rackfs</Title>
            </Group>
            <PasswordInput label="Token" description="rackfs dev prints one; rackfs token create makes more." value={token} onChange={(e) => setToken(e.currentTarget.value)} autoComplete="off" spellCheck={false} required autoFocus visibilityToggleButtonProps={{ "aria-label": "Show the token" }} data-test="token" />
            {error !== "" && <Alert color="red" role="alert">{error}</Alert>}
            <Button type="submit" loading={busy} data-test="log-in">Log in</Button>
            <Text size="xs" c="dimmed">The token is kept in a cookie that ends with the browser and that no script can read.</Text>
          </Stack>
        </form>
      </Card>
    </Center>
  );
}
