import { defineConfig } from 'vite';

// `npx vite web` serves only the page and sends all other requests to a server that runs beside it.
const server = 'http://localhost:3000';

export default defineConfig({
  build: { outDir: '../dist/web', emptyOutDir: true },
  server: { proxy: { '/api': server, '/uploads': server, '/admin': server } },
});
