import SwaggerUI from 'swagger-ui-dist/swagger-ui-es-bundle.js';
import 'swagger-ui-dist/swagger-ui.css';

SwaggerUI({
  url: '/openapi.json',
  domNode: document.getElementById('reference'),
  deepLinking: true,
  // Else Swagger UI sends the address of the document to a server of its makers, and shows that server's opinion.
  validatorUrl: null,
});
