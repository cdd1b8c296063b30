import "@mantine/core/styles.css";
import "@mantine/notifications/styles.css";
import "./styles.css";

import { createTheme, defaultCssVariablesResolver, MantineProvider, type CSSVariablesResolver } from "@mantine/core";
import { Notifications } from "@mantine/notifications";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { setNonce } from "get-nonce";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./App";
import { Refusal } from "./api/client";

// Styles that are made at run time carry the nonce of this answer, or the policy refuses them.
const nonce = document.querySelector<HTMLMetaElement>("meta[property=csp-nonce]")?.nonce ?? "";
setNonce(nonce); // of what keeps the page from scrolling behind a dialog

const queries = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 5_000,
      // A refusal stays one; what was not reached is tried again.
      retry: (n, err) => n < 2 && err instanceof Refusal && (err.status === 0 || err.status >= 500),
    },
  },
});

const theme = createTheme({
  primaryColor: "blue",
  fontFamily: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', Cantarell, sans-serif",
  fontFamilyMonospace: "ui-monospace, SFMono-Regular, Menlo, 'DejaVu Sans Mono', monospace",
  defaultRadius: "md",
  cursorType: "pointer",
  // Shades of which white has a contrast of 4.5 at least, and black or white as the text of others, whichever has more.
  primaryShade: 8,
  autoContrast: true,
  luminanceThreshold: 0.183,
  components: { CloseButton: { defaultProps: { "aria-label": "Close" } } },
  respectReducedMotion: true,
});

// Colours of text that Mantine has paler than 4.5 on what they stand on.
const colors: CSSVariablesResolver = (t) => {
  const vars = defaultCssVariablesResolver(t);
  const pale = { yellow: "#7a4100", orange: "#a33200", lime: "#3d6607", teal: "#066649", cyan: "#0a6070", red: "#b02222" };
  for (const [name, dark] of Object.entries(pale)) {
    vars.light[`--mantine-color-${name}-light-color`] = dark;
    vars.light[`--mantine-color-${name}-text`] = dark;
  }
  Object.assign(vars.light, { "--mantine-color-dimmed": "var(--mantine-color-gray-7)", "--mantine-color-placeholder": "#636a71", "--mantine-color-error": "var(--mantine-color-red-9)" });
  Object.assign(vars.dark, { "--mantine-color-dimmed": "var(--mantine-color-dark-1)", "--mantine-color-placeholder": "#a0a0a0", "--mantine-color-error": "var(--mantine-color-red-4)" });
  return vars;
};

const root = document.getElementById("root");
if (root === null) throw new Error("the page has no place for the dashboard");
createRoot(root).render(
  <StrictMode>
    <MantineProvider theme={theme} cssVariablesResolver={colors} defaultColorScheme="auto" getStyleNonce={() => nonce}>
      <Notifications position="top-right" autoClose={6000} />
      <QueryClientProvider client={queries}>
        <App />
      </QueryClientProvider>
    </MantineProvider>
  </StrictMode>,
);
