import { init } from 'redoc/bundles/redoc.standalone.js';

init('/openapi.json', {}, document.getElementById('reference'));
