// Servers that tests start load this module (node --import): it checks all their answers.
import express from 'express';
import { checkAnswers } from './answer-check.js';

const built = (/** @type {string} */ path) =>
  import(new URL(`../../dist/server/${path}`, import.meta.url).href);
const { declareRoutes } = await built('app.js');
const { problemsOf } = await built('routes/answers.js');

// Declaring uses no dependency: a route uses them when it is called.
checkAnswers(express.response, declareRoutes({}), problemsOf);
