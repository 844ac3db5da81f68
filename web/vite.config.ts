import { defineConfig, type Plugin } from 'vite';

// `npx vite web` serves only the page and sends all other requests to a server that runs beside it.
const server = 'http://localhost:3000';

const LOGO = 'https://cdn.redoc.ly/redoc/logo-mini.svg';

/** Fits the bundle of ReDoc into ours, and keeps its page on this server. */
const redocBundle: Plugin = {
  name: 'redoc-bundle',
  // Under a module system the bundle requires a module of this name, and does not use it.
  resolveId: (id) => (id === 'null' ? id : undefined),
  load: (id) => (id === 'null' ? 'export default null' : undefined),
  // ReDoc would load a logo from a server of its makers. It leaves the logo out if the browser cannot read it.
  transform(code, id) {
    if (!id.endsWith('/redoc.standalone.js')) return;
    if (!code.includes(LOGO)) throw new Error('ReDoc no longer loads this logo: remove the replacement');
    return { code: code.replaceAll(LOGO, 'data:,'), map: null };
  },
};

export default defineConfig({
  plugins: [redocBundle],
  build: {
    outDir: '../dist/web',
    emptyOutDir: true,
    // The licences of the packages in the bundles ask for it.
    license: { fileName: 'licenses.md' },
    rolldownOptions: {
      input: ['index', 'docs', 'redoc'].map((page) => `web/${page}.html`),
      checks: { bundlerTimings: false },
    },
    // Swagger UI and ReDoc are that large, and only their own pages load them.
    chunkSizeWarningLimit: 2000,
  },
  server: { proxy: { '/api': server, '/uploads': server, '/admin': server, '/openapi.json': server } },
});
