import react from "@vitejs/plugin-react";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { defineConfig, type Plugin } from "vite";

// Same as sources in web.go.
const sources = ["index.html", "package-lock.json", "package.json", "public", "src", "tsconfig.json", "vite.config.ts"];

// digest is that of web.go: SHA-256 over name, NUL, length, NUL and content of each file, names in the order of their bytes.
function digest(): string {
  const sum = createHash("sha256");
  const walk = (name: string) => {
    const path = join(import.meta.dirname, name);
    if (statSync(path).isDirectory()) {
      const names = readdirSync(path).map((n) => Buffer.from(n));
      names.sort(Buffer.compare);
      names.forEach((n) => walk(name + "/" + n.toString()));
      return;
    }
    const raw = readFileSync(path);
    sum.update(`${name}\0${raw.length}\0`);
    sum.update(raw);
  };
  sources.forEach(walk);
  return sum.digest("hex");
}

// sourcesFile notes in the build what it was made from.
const sourcesFile: Plugin = {
  name: "sources",
  generateBundle() {
    this.emitFile({ type: "asset", fileName: "SOURCES", source: digest() + "\n" });
  },
};

export default defineConfig({
  plugins: [react(), sourcesFile],
  build: {
    target: "es2022",
    emptyOutDir: true,
    // Assets in line would need another policy of the page.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 600,
    rolldownOptions: {
      output: {
        codeSplitting: {
          groups: [{ name: "vendor", test: /node_modules[\\/](react|react-dom|scheduler|@tanstack[\\/]react-query|@tanstack[\\/]query-core)[\\/]/ }],
        },
      },
    },
  },
});
