// A page to try queries. It asks this exchange alone, and keeps nothing.
const by = (id) => document.getElementById(id);

async function ask(query, variables) {
  const headers = { "content-type": "application/json" };
  if (by("token").value) headers.authorization = `Bearer ${by("token").value}`;
  const answer = await fetch("/graphql", { method: "POST", headers, body: JSON.stringify({ query, variables }) });
  return answer.json();
}

async function run(event) {
  event?.preventDefault();
  by("state").textContent = "…";
  try {
    const variables = by("variables").value.trim() ? JSON.parse(by("variables").value) : undefined;
    const began = performance.now();
    by("answer").textContent = JSON.stringify(await ask(by("query").value, variables), null, 2);
    by("state").textContent = `${Math.round(performance.now() - began)} ms`;
  } catch (error) {
    by("state").textContent = String(error);
  }
}

by("form").addEventListener("submit", run);
by("query").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run(event);
});

const TYPE = "kind name ofType { kind name ofType { kind name ofType { kind name } } }";
const name = (type) =>
  type.kind === "NON_NULL" ? `${name(type.ofType)}!` : type.kind === "LIST" ? `[${name(type.ofType)}]` : type.name;

function show(type) {
  by("about").textContent = type.description ?? "";
  by("fields").replaceChildren(
    ...(type.fields ?? type.inputFields ?? []).map((field) => {
      const row = document.createElement("tr");
      const given = (field.args ?? []).map((each) => `${each.name}: ${name(each.type)}`).join(", ");
      for (const text of [field.name, name(field.type), given, field.description ?? ""]) {
        row.append(Object.assign(document.createElement("td"), { textContent: text }));
      }
      return row;
    }),
  );
}

const { data } = await ask(
  `{ __schema { types { name description fields { name description type { ${TYPE} } args { name type { ${TYPE} } } }
     inputFields { name description type { ${TYPE} } } } } }`,
);
const types = data.__schema.types.filter((type) => (type.fields ?? type.inputFields) && !type.name.startsWith("__"));
by("types").append(...types.map((type) => new Option(type.name)));
by("types").addEventListener("change", () => show(types[by("types").selectedIndex]));
by("types").value = "Query";
show(types[by("types").selectedIndex]);
