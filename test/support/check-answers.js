// Servers that tests start load this module (node --import): it checks all their answers.
import { createRequire } from 'node:module';
import { checkAnswers } from './answer-check.js';

const server = new URL('../../dist/server/', import.meta.url);
const built = (/** @type {string} */ path) => import(new URL(path, server).href);
const { declareRoutes } = await built('app.js');
const { problemsOf } = await built('routes/answers.js');
// Of the two copies of Express (see build.js), this is the server's.
const { default: express } = await import(createRequire(server).resolve('express'));

// Declaring uses no dependency: a route uses them when it is called.
checkAnswers(express.response, declareRoutes({}), problemsOf);
