// Reads TraceQL queries, a JSON array, from standard input; prints for each how many errors Grafana's grammar finds.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const modules = process.argv[2];
const { parser } = await import(pathToFileURL(`${modules}/@grafana/lezer-traceql/index.es.js`));
const errors = JSON.parse(readFileSync(0, "utf8")).map((query) => {
  let found = 0;
  parser.parse(query).iterate({ enter: (node) => void (found += node.type.isError ? 1 : 0) });
  return found;
});
console.log(JSON.stringify(errors));
