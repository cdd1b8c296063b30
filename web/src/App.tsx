import { Center, Loader } from "@mantine/core";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useMemo } from "react";
import { call, Refusal, whenLoggedOut } from "./api/client";
import { Login } from "./pages/Login";
import { SessionContext, Session } from "./session";
import { Shell } from "./Shell";
import { Trouble } from "./parts";

/** The page of who is logged in, or the one to log in. */
export function App() {
  const queries = useQueryClient();
  const who = useQuery({
    queryKey: ["session"],
    queryFn: () => call("who-am-i", "GET", "/session").catch((e: unknown) => {
      if (e instanceof Refusal && (e.status === 401 || e.status === 429)) return null;
      throw e;
    }),
    staleTime: Infinity,
  });
  useEffect(() => whenLoggedOut(() => queries.setQueryData(["session"], null)), [queries]);
  const session = useMemo(() => (who.data ? new Session(who.data) : null), [who.data]);
  if (who.isPending) {
    return (
      <Center h="100vh">
        <Loader aria-label="Loading" />
      </Center>
    );
  }
  if (who.isError) {
    return (
      <Center h="100vh">
        <Trouble what="The gateway cannot be asked who you are" error={who.error} retry={() => void who.refetch()} />
      </Center>
    );
  }
  if (session === null) return <Login />;
  return (
    <SessionContext.Provider value={session}>
      <Shell />
    </SessionContext.Provider>
  );
}
