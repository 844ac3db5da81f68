import { defineConfig } from 'vite';

// `npx vite web` serves the page alone; everything else is asked of a server that runs beside it.
const server = 'http://localhost:3000';

export default defineConfig({
  build: { outDir: '../dist/web', emptyOutDir: true },
  server: { proxy: { '/api': server, '/uploads': server, '/admin': server } },
});
